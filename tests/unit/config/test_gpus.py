"""The GPUs of training workers and of tasks: what may be asked for, and what runs of earlier versions asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump, parse, parse_kept
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.run.frozen_run_file import freeze, run_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE

SMALLEST = "{name: gpus, storage: 's3://bucket/gpus', data: {source: 's3://archive/*.csv', shape: [8]}}"


def begun_with(gpus: float, *overrides: str) -> str:
    """The run.yaml of a run of an earlier version, which had no key for the GPUs of a task."""
    text = dump(parse(SMALLEST, overrides)).replace("gpus_per_worker: 0.0", f"gpus_per_worker: {gpus}")
    return text.replace("  gpus_per_task: null\n", "")


@pytest.mark.parametrize("gpus", [0.5, 2, 1.5])
def test_a_training_worker_has_one_gpu_or_none(gpus: float) -> None:
    with pytest.raises(RunFileError) as found:
        parse(SMALLEST, [f"cluster.gpus_per_worker={gpus}"])
    assert f"cluster.gpus_per_worker = {gpus}: a training worker uses one GPU" in found.value.what
    assert "raise cluster.workers" in found.value.what
    assert "fit.gpus_per_task" in found.value.what
    assert parse(SMALLEST, ["cluster.gpus_per_worker=1"]).cluster.gpus_per_worker == 1


@pytest.mark.parametrize(
    ("gpus", "why"),
    [(1.5, "a share of one GPU or whole GPUs"), (0.00001, "smallest share"), (-1, "greater than or equal to 0")],
)
def test_a_task_has_a_share_of_one_gpu_or_whole_ones(gpus: float, why: str) -> None:
    with pytest.raises(RunFileError, match=why) as found:
        parse(SMALLEST, [f"fit.gpus_per_task={gpus}"])
    assert "fit.gpus_per_task" in found.value.what


@pytest.mark.parametrize(("key", "gpus"), [("null", 1), ("0", 0), ("0.25", 0.25), ("1.0", 1), ("2", 2)])
def test_a_task_has_as_many_as_a_worker_unless_fit_says_otherwise(key: str, gpus: float) -> None:
    assert parse(SMALLEST, ["cluster.gpus_per_worker=1", f"fit.gpus_per_task={key}"]).gpus_per_task == gpus


@pytest.mark.parametrize("gpus", [0.5, 2, 2.5])
def test_a_run_that_began_with_other_numbers_goes_on_with_one(gpus: float, tmp_path: Path) -> None:
    store, here = ObjectStore(str(tmp_path)), f"storage={tmp_path}"
    old = begun_with(gpus, here)
    with pytest.raises(RunFileError, match="a training worker uses one GPU"):
        parse(old)
    store.write(run_path(parse(SMALLEST, [here])), old.encode())
    run, first = freeze(parse(SMALLEST, [here, "cluster.gpus_per_worker=1", "fit.gpus_per_task=0.5"]), store, ALONE)
    assert not first
    kept = parse_kept(store.read(run_path(run)).decode())
    assert (kept.cluster.gpus_per_worker, kept.fit.gpus_per_task) == (1, 0.5)


def test_a_kept_run_file_that_is_damaged_there_is_still_refused(tmp_path: Path) -> None:
    store, run = ObjectStore(str(tmp_path)), parse(SMALLEST, [f"storage={tmp_path}"])
    for wrong in ("-1.0", "many", ".inf", "true"):
        store.write(
            run_path(run), begun_with(0, f"storage={tmp_path}").replace("worker: 0", f"worker: {wrong} #").encode()
        )
        with pytest.raises(IntegrityError, match=r"cluster\.gpus_per_worker"):
            freeze(run, store, ALONE)
