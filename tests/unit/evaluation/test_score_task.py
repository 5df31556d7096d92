"""A scan's metrics are its own: how ranges were divided, or what is decoded beside it, does not change a bit."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation import report_driver, score_task
from medfuncta_dist.evaluation.decode import decode, reconstruct
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.evaluation.metrics import score
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS
from tests.unit.latents.fitted import network, packed, publish, run_file

COUNTS = {"train": 50, "test": 40}


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """Ranges are whole shards of up to 50 scans."""
    fit_, data = {"scans_per_task": 64, "batch": 64}, {"shard_scans": 64}
    run = run_file(tmp_path_factory.mktemp("run"), kind=request.param, fit=fit_, data=data)
    packed(run, Path(run.storage).parent, counts=COUNTS)
    publish(run, network(run))
    return run


def metrics(run: RunFile, scans_per_task: int) -> pa.Table:
    """From latents that were fitted in ranges of so many scans."""
    divided = RunFile.model_validate(
        run.model_dump() | {"fit": run.fit.model_dump() | {"scans_per_task": scans_per_task}}
    )
    fit(divided, map_here)
    works = locate_table(divided, ObjectStore(run.storage)).works
    assert max(work.units for work in works) == min(scans_per_task, 50)
    evaluate(divided, map_here)
    return pq.read_table(io.BytesIO(ObjectStore(run.storage).read(f"runs/{run.name}/report/metrics.parquet")))


def test_metrics_do_not_depend_on_how_ranges_are_divided(run: RunFile) -> None:
    whole = metrics(run, 64)
    assert whole.num_rows == sum(COUNTS.values())
    for scans in (7, 2, 1):
        assert metrics(run, scans).equals(whole), f"in ranges of {scans}"


def test_a_scan_decoded_alone_has_the_metrics_of_the_evaluation(run: RunFile) -> None:
    rows = metrics(run, 64).to_pylist()[:5]
    store, cache = WorkerSettings.of(run).open()
    shards = {shard.sha256: shard for shards in locate_table(run, store).snapshot.splits.values() for shard in shards}
    samples = read_samples(store, cache, [Pick(shards[row["shard"]], row["row"]) for row in rows])
    for row, sample in zip(rows, samples, strict=True):
        found = score(sample.values(), decode(run, row["key"]).values)
        assert (found.psnr, found.ssim, found.mse) == (row["psnr"], row["ssim"], row["mse"])


def decoded_together(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[int]:
    """How many scans each call of the module decodes."""
    counts: list[int] = []

    def counted(network: SharedNetwork, latents: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        counts.append(len(latents))
        return reconstruct(network, latents, shape)

    monkeypatch.setattr(module, "reconstruct", counted)
    return counts


def test_scans_are_decoded_as_many_at_once_as_memory_allows(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = metrics(run, 64)
    counts = decoded_together(monkeypatch, score_task)
    assert metrics(run, 64).equals(whole)
    assert sorted(counts) == sorted(COUNTS.values())
    counts.clear()
    monkeypatch.setattr(score_task, "DECODED_VALUES", 20 * 144)
    assert metrics(run, 64).equals(whole)
    assert sorted(counts) == [10, 20, 20, 20, 20]


def test_the_reports_pictures_are_decoded_together(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = decoded_together(monkeypatch, report_driver)
    metrics(run, 64)
    assert counts == [run.evaluate.pictures]
