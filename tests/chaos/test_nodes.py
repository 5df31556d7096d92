"""Nodes that are drained, and nodes that are lost: each on a cluster of its own, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import history, read_events
from tests.chaos.runs import FULL
from tests.integration.training_runs import run_file
from tests.kinds import BY_KIND

pytestmark = pytest.mark.timeout(600)

SAVE, STEPS = 50, 1200
NOTICES_S = [12, 30] if FULL else [12]


@pytest.fixture(scope="module")
def storage(s3: Callable[[], str]) -> str:
    return s3()


def happened(folder: Path, fault: str, run: RunFile, snapshot: str, *more: str) -> dict[str, Any]:
    """What a driver saw to whose cluster this happened (`tests.chaos.node_faults`)."""
    (folder / "run.json").write_text(run.model_dump_json())
    command = [sys.executable, "-m", "tests.chaos.node_faults", fault, str(folder / "run.json"), snapshot, *more]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=550)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def said(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [fields for name, fields in found["saw"] if name == kind]


@pytest.mark.fault("drain")
@pytest.mark.parametrize("kind", ["siren", pytest.param("basis", marks=pytest.mark.slow)])
@pytest.mark.parametrize("notice", NOTICES_S)
def test_a_drained_node_s_work_is_saved_before_its_deadline_and_goes_on_elsewhere(
    notice: int, kind: str, storage: str, snapshot: str, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    """No checkpoint is due before, and no failure is allowed, so all rests on the notice."""
    train = {"steps": STEPS, "checkpoint_minutes": 60, "max_failures": 0}
    run = run_file(storage, f"drained-{kind}-{notice}", kind=kind, workers=2, **train)
    found = happened(tmp_path, "drain", run, snapshot, str(notice))
    [preempted], [recovered], [gone] = said(found, "preempted"), said(found, "recovered"), found["gone"]
    assert preempted["seconds_left"] > 0
    assert 0 < preempted["seconds"] < notice
    assert (recovered["cause"], recovered["redone"]) == ("preemption", 0)
    first, second = said(found, "started")
    assert second["step"] == preempted["step"] == said(found, "checkpoint")[0]["step"]
    assert gone > 0
    assert len({*first["nodes"], *second["nodes"]}) == 3
    figures = found["summary"]["goodput"]
    assert figures["preemption_save_s"] == preempted["seconds"]
    losses = history(ObjectStore(storage), run.name)
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    measured(
        f"{notice} s: saved in {preempted['seconds']:.1f} s, {preempted['seconds_left']:.1f} s before; 0 steps redone"
    )


@BY_KIND
@pytest.mark.fault("node-lost")
@pytest.mark.skipif(not FULL, reason="minutes: MEDFUNCTA_CHAOS=full; tests/integration resumes with fewer workers")
def test_a_lost_node_leaves_half_the_workers_the_same_batches(
    kind: str, storage: str, snapshot: str, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    """The steps after the checkpoint are taken by two workers, and were taken by four from the same state before."""
    run = run_file(storage, f"lost-{kind}", kind=kind, max_failures=1, steps=4 * SAVE, checkpoint_steps=SAVE)
    run = run.model_copy(update={"cluster": run.cluster.model_copy(update={"workers": [2, 4]})})
    found = happened(tmp_path, "lose", run, snapshot)
    first, second = said(found, "started")
    assert (first["workers"], second["workers"]) == (4, 2)
    assert second["step"] >= SAVE
    by_four, by_two = dict(history(ObjectStore(storage), f"{run.name}-whole")), losses_by_attempt(storage, run.name)[-1]
    assert list(by_two) == list(range(second["step"] + 1, 4 * SAVE + 1))
    resumed = second["step"] + 1
    assert by_two[resumed] == pytest.approx(by_four[resumed], abs=1e-6)
    both = by_four.keys() & by_two.keys()
    measured(f"first resumed loss {abs(by_two[resumed] - by_four[resumed]):.0e} apart; {len(both)} steps by both")
    assert [by_two[step] for step in both] == pytest.approx([by_four[step] for step in both], abs=1e-5)


def losses_by_attempt(storage: str, name: str) -> list[dict[int, float]]:
    losses: list[dict[int, float]] = []
    for line in read_events(ObjectStore(storage), name):
        if line.get("name") == "started":
            losses.append({})
        if "loss" in line.get("values", {}):
            losses[-1][line["step"]] = line["values"]["loss"]
    return losses
