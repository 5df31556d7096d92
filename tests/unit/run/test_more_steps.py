"""A run gets more outer steps, or fewer: only where no step that was taken would have been another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.run.begun_overrides import find_overrides
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.run.more_steps import steps_taken
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from tests.records import write_record

RUN = "{{name: x, storage: {storage}, data: {{source: scans/*.png, shape: [16, 16]}}, train: {{batch: 8, {train}}}}}"


def run_file(folder: Path, train: str) -> RunFile:
    return parse(RUN.format(storage=folder, train=train))


def change(folder: Path, begun: str, now: str) -> RunFile:
    """The kept run file of a run that was begun with one section ``train`` and goes on with another."""
    store = ObjectStore(str(folder))
    freeze(run_file(folder, begun), store, fence=ALONE)
    return freeze(run_file(folder, now), store, fence=ALONE)[0]


def test_more_steps_are_refused_where_the_schedule_ends_with_them(tmp_path: Path) -> None:
    with pytest.raises(RunChangedError, match=r"train\.steps: 10 -> 20") as caught:
        change(tmp_path, "steps: 10", "steps: 20")
    assert "set train.schedule_steps to 10" in caught.value.do
    assert "medfuncta-dist fork RUN.yaml NEW" in caught.value.do
    assert freeze(run_file(tmp_path, "steps: 10"), ObjectStore(str(tmp_path)), fence=ALONE)[0].train.steps == 10


@pytest.mark.parametrize(
    ("begun", "now"),
    [
        ("steps: 10", "steps: 20, schedule_steps: 10"),
        ("steps: 10", "steps: 10, schedule_steps: 10"),
        ("steps: 10, schedule_steps: 30", "steps: 20, schedule_steps: 30"),
        ("steps: 10, schedule_steps: 30", "steps: 30"),
        ("steps: 10, schedule: constant", "steps: 20, schedule: constant"),
        ("steps: 10, schedule_steps: 30", "steps: 5, schedule_steps: 30"),
    ],
)
def test_another_number_of_steps_is_taken_where_the_schedule_stays(tmp_path: Path, begun: str, now: str) -> None:
    assert change(tmp_path, begun, now) == freeze(run_file(tmp_path, now), ObjectStore(str(tmp_path)), fence=ALONE)[0]


@pytest.mark.parametrize(
    ("begun", "now", "named"),
    [
        ("steps: 10, schedule_steps: 30", "steps: 20, schedule_steps: 20", r"train\.schedule_steps: 30 -> 20"),
        ("steps: 10, schedule_steps: 30", "steps: 20", r"train\.schedule_steps: 30 -> None"),
        ("steps: 10", "steps: 20, schedule_steps: 20", r"train\.steps: 10 -> 20"),
        ("steps: 10", "steps: 20, schedule_steps: 10, seed: 3", r"train\.seed: 0 -> 3"),
        ("steps: 10", "steps: 10, schedule: constant", r"train\.schedule: 'cosine' -> 'constant'"),
    ],
)
def test_another_schedule_is_refused(tmp_path: Path, begun: str, now: str, named: str) -> None:
    with pytest.raises(RunChangedError, match=named):
        change(tmp_path, begun, now)


def test_what_else_differs_is_named_with_the_usual_way_out(tmp_path: Path) -> None:
    with pytest.raises(RunChangedError, match=r"train\.seed") as caught:
        change(tmp_path, "steps: 10", "steps: 20, seed: 3")
    assert "undo these changes" in caught.value.do


@pytest.mark.parametrize("now", ["steps: 6", "steps: 6, schedule_steps: 10"])
def test_no_step_is_undone(tmp_path: Path, now: str) -> None:
    store = ObjectStore(str(tmp_path))
    name = "000000007-0000000000000001-20260101T000000-aaaa"
    write_record(store, f"runs/x/checkpoints/commits/{name}.json", "checkpoint", {})
    assert steps_taken(store, "x") == 7
    with pytest.raises(RunChangedError, match="step 7 is already done") as caught:
        change(tmp_path, "steps: 10", now)
    assert "at least 7" in caught.value.do
    freeze(run_file(tmp_path, "steps: 7, schedule_steps: 10"), store, fence=ALONE)


def test_the_next_command_does_not_take_steps_away_again(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    freeze(run_file(tmp_path, "steps: 10"), store, fence=ALONE)
    assert find_overrides(run_file(tmp_path, "steps: 20, schedule_steps: 10"), store) == ()
    assert find_overrides(run_file(tmp_path, "steps: 20"), store) == ("train.steps=10",)
    assert "train.steps=10" in find_overrides(run_file(tmp_path, "steps: 5, schedule_steps: 10"), store)
