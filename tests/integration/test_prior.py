"""The stage prior through Ray Train: two workers, judged, resumed to the same bits, and again nothing to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LimitReachedError, RunFileError
from medfuncta_dist.exchange.import_latents import import_latents
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.prior import prior_driver
from medfuncta_dist.prior.prior_driver import train_prior
from medfuncta_dist.prior.prior_files import prior_folder, record_path
from medfuncta_dist.prior.sample_files import SampleRequest, write_samples
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.stages.readiness import is_complete, require_ready
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.training.checkpoints.checkpoint import newest_first, step_of
from tests.unit.exchange.test_latents import public_folder, started
from tests.unit.forget.archives import write_run_file
from tests.unit.latents.fitted import FIELD, ready

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

STEPS, SAVE = 12, 4
PRIOR: dict[str, Any] = {"steps": STEPS, "batch": 8, "width": 8, "blocks": 1, "most_copied": 1.0}
TRAIN: dict[str, Any] = {"checkpoint_steps": SAVE, "keep_checkpoints": 10}


def fitted(folder: Path) -> RunFile:
    sections = {"prior": PRIOR, "train": TRAIN, "telemetry": {"wandb": "off", "log_steps": 1}}
    run = ready(folder, kind="basis", field=FIELD, **sections)
    write_run_file(run)
    fit(run, map_here)
    return run


def checkpoints(run: RunFile) -> list[str]:
    store = ObjectStore(run.storage)
    [folder] = [name for name in store.folders(prior_folder(run.name)) if len(name) == 16]
    return newest_first(store, f"{prior_folder(run.name)}/{folder}/checkpoints")


def test_a_prior_is_trained_judged_and_goes_on_where_it_was_interrupted_with_the_same_bits(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    store = ObjectStore(run.storage)
    require_ready(run, store, ["prior"])
    assert not is_complete(run, store, "prior")
    reported: list[tuple[str, int]] = []
    whole = train_prior(run, on_progress=lambda report: reported.append((report.stage, report.done)))
    assert (whole.first_step, whole.steps, whole.attempts) == (0, STEPS, 1)
    assert reported[-1] == ("prior", STEPS)
    assert whole.judgement["samples"] == 64
    assert 0 < whole.held_out_loss < 3  # type: ignore[operator]
    assert is_complete(run, store, "prior")
    assert [step_of(path) for path in checkpoints(run)] == [12, 8, 4]
    assert train_prior(run).first_step == STEPS, "there is nothing to do"

    store.delete(record_path(run.name))
    for path in checkpoints(run):
        if step_of(path) > SAVE:
            store.delete(path)
    resumed = train_prior(run)
    assert resumed.first_step == SAVE
    assert resumed.digest == whole.digest

    changed = run.model_copy(update={"prior": run.prior.model_copy(update={"seed": 1})})
    assert not is_complete(changed, store, "prior")
    assert train_prior(changed).digest != whole.digest
    found = write_samples(run, SampleRequest(2, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "samples.json").read_bytes())["prior"] == found["prior"]


def test_a_prior_of_latents_that_were_imported_without_their_scans(tmp_path: Path) -> None:
    run, _ = started(tmp_path, prior=PRIOR, train=TRAIN)
    import_latents(run, str(public_folder(tmp_path)), map_here)
    found = run_stages(run, ["prior"])["prior"]
    assert (found["steps"], found["judgement"]["samples"]) == (STEPS, 64)
    listed = write_samples(run, SampleRequest(2, tmp_path / "out", shape=(20, 20)))["samples"]
    assert all((tmp_path / "out" / one["file"]).exists() for one in listed)


def test_two_workers_lose_what_one_loses(tmp_path: Path) -> None:
    losses, run = [], fitted(tmp_path)
    store = ObjectStore(run.storage)
    for workers in (1, 2):
        for info in store.list(prior_folder(run.name)):
            store.delete(info.path)
        train_prior(run.model_copy(update={"cluster": run.cluster.model_copy(update={"workers": workers})}))
        [identity] = [name for name in store.folders(prior_folder(run.name)) if len(name) == 16]
        losses.append([loss for _, loss in history(store, f"{run.name}/prior/{identity}")])
    assert len(losses[0]) == STEPS
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_cannot_be_trained_is_refused_before_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("workers were started")

    monkeypatch.setattr(prior_driver, "follow", never)
    run = fitted(tmp_path)
    many = run.model_copy(update={"cluster": run.cluster.model_copy(update={"workers": 9})})
    with pytest.raises(RunFileError, match=r"cluster\.workers is 9"):
        train_prior(many)
    with pytest.raises(LimitReachedError):
        train_prior(run, limit_reached=lambda: LimitReachedError("the run has used its hours"))
    alone = run.model_copy(update={"fit": run.fit.model_copy(update={"splits": ["train"]})})
    with pytest.raises(RunFileError, match="no held-out scan has a latent"):
        train_prior(alone)
