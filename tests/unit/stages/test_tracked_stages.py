"""The fit stage, and a whole run from its storage, as runs of Weights & Biases: offline, with its real files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.stages import fit_stage, run_summary, tracked_stages
from medfuncta_dist.stages.tracked_stages import track_run
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import logged_steps
from tests.unit.latents.fitted import FIELD, ready, record_training
from tests.wandb_files import artifacts, history, identity, records

ATTEMPTS = "0000000000070001-20260711T101500-9f3a", "0000000000070002-20260711T111500-01bc"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFile:
    """A run with a network, and the numbers of two attempts: the first was killed two steps after its checkpoint."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(fit_stage, "compute_fan_out", lambda run: map_here)
    monkeypatch.setattr("medfuncta_dist.telemetry.wandb_runs.open_wandb.temporary_root", lambda: tmp_path / "tmp")
    run = ready(tmp_path, field=FIELD, train={"batch": 8, "steps": 4})
    lost = {1: 1.0, 2: 0.5, 3: 0.4}
    record_training(run, {ATTEMPTS[0]: lost, ATTEMPTS[1]: {2: 0.5, 3: 0.4, 4: 0.25}})
    return run


def fit(run: RunFile) -> dict[str, Any]:
    store = ObjectStore(run.storage)
    figures = fit_stage.run_fit(run, store, ALONE)
    run_summary.merge(store, run.name, "fit", {**figures, "said": []}, ALONE)
    return figures


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def test_the_fit_stage_links_its_table_to_data_set_and_network(trained: RunFile, tmp_path: Path) -> None:
    figures = fit(trained)
    [folder] = offline_runs(tmp_path / "tmp" / "medfuncta-work" / trained.name)
    found = records(folder)
    assert identity(found) == (f"small-fit-{figures['table'][:12]}", "small fit", "fit")
    [(_, numbers)] = history(found)
    assert (numbers["fitted"], numbers["psnr/test"]) == (31, figures["psnr"]["test"]["mean"])
    data, network, table = artifacts(found)
    assert [one["use_after_commit"] for one in (data, network, table)] == [True, True, False]
    assert [one["metadata"]["digest"] for one in (data, network, table)] == [
        figures[what] for what in ("dataset", "network", "table")
    ]
    assert [one["files"] for one in (data, network, table)] == [{}, {}, {}]


def test_the_same_latents_are_the_same_table_and_others_are_not(trained: RunFile) -> None:
    table = fit(trained)["table"]
    assert fit(trained)["table"] == table
    other = trained.model_copy(update={"fit": trained.fit.model_copy(update={"steps": 5})})
    assert fit(other)["table"] != table


def test_off_writes_nothing_and_a_failure_ends_nothing(
    trained: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    off = trained.model_copy(update={"telemetry": trained.telemetry.model_copy(update={"wandb": "off"})})
    fit(off)
    assert not (tmp_path / "tmp").exists()

    def no_room(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(tracked_stages, "open_wandb", no_room)
    assert fit(trained)["counts"]["fitted"] == 31
    assert "the fit stage is not in Weights & Biases: no room" in capsys.readouterr().err


def test_a_run_is_written_again_from_its_storage_alone(trained: RunFile, tmp_path: Path) -> None:
    fit(trained)
    shutil.rmtree(tmp_path / "tmp")  # the pods, and all that they had
    answer = track_run(trained, tmp_path / "out")
    training, table = (records(Path(written["folder"])) for written in answer["runs"])
    assert identity(training)[0] == answer["runs"][0]["id"] == "small-20260711T101500-9f3a"
    assert history(training) == logged_steps(ObjectStore(trained.storage), trained.name)
    assert [step for step, _ in history(training)] == [1, 2, 3, 4]
    assert [one["name"] for one in artifacts(training)] == ["small", "small-network"]
    assert [one["name"] for one in artifacts(table)] == ["small", "small-network", "small-latents"]
    digests = [{one["name"]: one["digest"] for one in artifacts(found)} for found in (training, table)]
    assert digests[0].items() <= digests[1].items(), "what fitting used is what training made"
    for written, line in zip(answer["runs"], answer["said"], strict=True):
        assert f"`wandb sync {written['folder']}` uploads it" in line


def test_a_run_that_is_not_fitted_has_its_training_and_one_that_is_not_trained_is_refused(
    trained: RunFile, tmp_path: Path
) -> None:
    assert [written["stage"] for written in track_run(trained, tmp_path / "out")["runs"]] == ["train"]
    store = ObjectStore(trained.storage)
    run_summary.merge(store, trained.name, "fit", {"counts": {}}, ALONE)  # as an earlier version left it
    assert "run fit again" in track_run(trained, tmp_path / "out")["said"][-1]
    with pytest.raises(StageOrderError, match="nothing was trained yet"):
        track_run(trained.model_copy(update={"name": "other"}), tmp_path / "out")
