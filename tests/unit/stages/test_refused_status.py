"""A command that is refused has done nothing: the status of a finished run stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunChangedError, RunFileError, StageOrderError
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import gather_facts
from medfuncta_dist.telemetry.progress_record import progress_path
from tests.unit.stages.test_refusals import run_file


def now(run: RunFile) -> RunStatus:
    """Without the seconds since the driver's last report, which pass."""
    return replace(derive_status(gather_facts(JobTarget(run.name, run))), silent_s=None)


Command = tuple[RunFile, list[str], str | None]
"""Run file, stages and idempotency key: the arguments of ``run_stages``."""


def another_salt(folder: Path) -> Command:
    return run_file(folder, data__private=str(folder / "other")), ["pack"], None


def a_damaged_salt(folder: Path) -> Command:
    next((folder / "private").glob("**/salt*")).write_text("not hex")
    return run_file(folder), ["pack"], None


def a_changed_run_file(folder: Path) -> Command:
    return run_file(folder, data__aspect="crop"), ["pack"], None


def a_missing_source(folder: Path) -> Command:
    (folder / "images.npz").unlink()
    return run_file(folder), ["pack"], None


def a_stage_before_its_turn(folder: Path) -> Command:
    return run_file(folder), ["fit"], None


def an_unknown_stage(folder: Path) -> Command:
    return run_file(folder), ["pack", "polish"], None


def a_key_that_stands_for_something_else(folder: Path) -> Command:
    return run_file(folder), ["pack", "train"], "key-1"


@pytest.mark.parametrize(
    ("refused", "kind", "words"),
    [
        (another_salt, RunChangedError, "salt"),
        (a_damaged_salt, RunFileError, "salt"),
        (a_changed_run_file, RunChangedError, r"data\.aspect"),
        (a_missing_source, RunFileError, "no file matches"),
        (a_stage_before_its_turn, StageOrderError, "not trained yet"),
        (an_unknown_stage, RunFileError, "no stage 'polish'"),
        (a_key_that_stands_for_something_else, RunChangedError, "idempotency key"),
    ],
)
def test_a_refused_command_leaves_the_status_of_a_finished_run(
    archive: Path, refused: Callable[[Path], Command], kind: type[RunFileError], words: str
) -> None:
    run = run_file(archive)
    store = ObjectStore(run.storage)
    run_stages(run, ["pack"], "key-1")
    before, recorded = now(run), store.read(progress_path(run.name, "pack"))
    assert (before.state, before.stage, before.failure) == (JobState.DONE, "pack", "")
    with pytest.raises(kind, match=words):
        run_stages(*refused(archive))
    assert now(run) == before
    assert store.read(progress_path(run.name, "pack")) == recorded


def test_a_finished_run_that_is_found_damaged_is_no_longer_done(archive: Path) -> None:
    run = run_file(archive)
    run_stages(run, ["pack"])
    store = ObjectStore(run.storage)
    for record in store.list("datasets/refused/packs"):
        store.delete(record.path)
    with pytest.raises(IntegrityError):
        run_stages(run, ["pack"])
    assert now(run).state is JobState.FAILED


def test_a_first_run_that_is_refused_says_why(archive: Path) -> None:
    run = run_file(archive)
    (archive / "images.npz").unlink()
    with pytest.raises(RunFileError, match="no file matches"):
        run_stages(run, ["pack"])
    assert "o file matches" in now(run).failure
