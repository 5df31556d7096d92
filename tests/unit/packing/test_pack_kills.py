"""A pack stage in a process of its own that is killed, without a warning, and run again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.archive import survey
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.task_map import map_here
from tests.unit.packing.test_dicom_series import made, run_of
from tests.writers import write_series

HALT = "here"
SERIES = "abcd"


def archive(folder: Path) -> Path:
    """Four series, and the same salt wherever it is made."""
    for series in SERIES:
        write_series(folder / "archive", made(ord(series)), name=series)
    (folder / "private").mkdir()
    (folder / "private" / "salt").write_text("5" * 64)
    return folder


def packed(folder: Path, **calls: Any) -> PackSummary:
    """A part of the survey has five files, and a task one series."""
    survey.PART_ROWS = 5
    run = run_of(folder, sources_per_task=8)
    return pack(run, map_here, **{"on_progress": lambda progress: None, **calls})


def halting(folder: Path, where: str, after: int) -> None:
    """In the child: says when it is there, and goes no further."""

    def halt() -> None:
        print(HALT, flush=True)
        sys.stdin.read()

    if where == "survey":
        packed(folder, on_survey=lambda done, total: halt() if done >= after else None)
    else:
        packed(folder, on_progress=lambda report: halt() if report.done >= after else None)


@pytest.fixture
def part_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts back what ``packed`` sets."""
    monkeypatch.setattr(survey, "PART_ROWS", survey.PART_ROWS)


@pytest.mark.usefixtures("part_rows")
def test_killed_in_the_survey_and_between_tasks_it_ends_with_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = archive(tmp_path / "whole"), archive(tmp_path / "killed")
    expected = packed(whole)
    for where, after in (("survey", 10), ("tasks", 3)):
        kill_at(killed, where, after)
        if where == "survey":
            assert len(list((killed / "private" / survey.PARTS).glob("*/*.parquet"))) == 2
    read: list[str] = []
    fetch_from = survey.fetch_from
    monkeypatch.setattr(survey, "fetch_from", lambda uri: read.append(uri) or fetch_from(uri))
    found = packed(killed)
    assert (found.snapshot_digest, found.counts) == (expected.snapshot_digest, expected.counts)
    assert read == []  # the survey that the second call ended
    assert found.new_sources == 1  # the others are those of the killed calls


def kill_at(folder: Path, where: str, after: int) -> None:
    code = (
        f"from tests.unit.packing import test_pack_kills as t; t.halting(t.Path({str(folder)!r}), {where!r}, {after})"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == HALT
        child.kill()
        assert child.wait() == -signal.SIGKILL
