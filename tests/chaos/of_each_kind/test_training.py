"""Workers of a training run killed, killed while they save, and stopped: the long forms of `make chaos`.

tests/integration/test_training.py has a short form of each.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import history, read_events
from medfuncta_dist.training.checkpoints.checkpoint import verify_checkpoints
from medfuncta_dist.training.trainer import TrainSummary, train
from tests.integration.training_runs import run_file

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("MEDFUNCTA_CHAOS") != "full", reason="a minute each"),
]

KILLS, STEPS, SAVE, HANG_S = 5, 600, 50, 8.0
LONG: dict[str, Any] = {"workers": 2, "steps": STEPS, "checkpoint_steps": SAVE, "max_failures": 2 * KILLS}


@pytest.fixture(scope="module")
def uninterrupted(kind: str, storage: str, snapshot: str) -> TrainSummary:
    return train(run_file(storage, "uninterrupted", kind=kind, **LONG), snapshot)


class Killer:
    """Listens to training, and ``strike``s once an attempt, in a thread of its own, after its first step."""

    def __init__(self, times: int, strike: Callable[[list[int]], None]) -> None:
        self.left, self._strike = times, strike
        self._pids: list[int] = []

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "started":
            self._pids = list(fields["pids"])
        if kind == "step" and self._pids and self.left:
            self.left -= 1
            pids, self._pids = self._pids, []
            threading.Thread(target=self._strike, args=(pids,), daemon=True).start()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def recovered(storage: str, name: str) -> list[dict[str, Any]]:
    return [line["fields"] for line in read_events(ObjectStore(storage), name) if line.get("name") == "recovered"]


@pytest.mark.fault("worker-kill")
def test_workers_killed_at_random(
    kind: str, uninterrupted: TrainSummary, storage: str, snapshot: str, measured: Callable[[str], None]
) -> None:
    chance = random.Random(1)

    def strike(pids: list[int]) -> None:
        time.sleep(chance.uniform(0.0, 1.5))
        kill(chance.choice(pids))

    killer = Killer(KILLS, strike)
    summary = train(run_file(storage, "killed", kind=kind, **LONG), snapshot, killer)
    assert summary.network_digest == uninterrupted.network_digest
    assert history(ObjectStore(storage), "killed") == history(ObjectStore(storage), "uninterrupted")
    assert summary.attempts == KILLS + 1
    found = recovered(storage, "killed")  # those of attempts that lived long enough to log it
    # The checkpoint that was under way may be lost with its worker: an interval, and what an upload takes.
    assert all(fields["redone"] < 2 * SAVE for fields in found)
    measured(f"{KILLS} kills survived, at most {max(fields['redone'] for fields in found)} steps redone")
    measured(f"recovered in {statistics.median(fields['seconds'] for fields in found):.0f} s (median)")


@pytest.mark.fault("save-kill")
def test_workers_killed_while_they_save(
    kind: str, uninterrupted: TrainSummary, storage: str, snapshot: str, measured: Callable[[str], None]
) -> None:
    """Struck when a checkpoint's folder appears, or up to 40 ms later: while shares are written, or the record."""
    chance, folder = random.Random(2), Path(storage) / "runs/saving/checkpoints"
    committed_then: list[bool] = []

    def strike(pids: list[int]) -> None:
        before = set(folder.glob("0*"))
        while not (new := set(folder.glob("0*")) - before):
            time.sleep(0.0005)
        time.sleep(chance.uniform(0.0, 0.04))
        kill(chance.choice(pids))
        committed_then.append((folder / "commits" / f"{new.pop().name}.json").exists())

    killer = Killer(KILLS, strike)
    summary = train(run_file(storage, "saving", kind=kind, **LONG), snapshot, killer)
    assert summary.network_digest == uninterrupted.network_digest
    whole, damaged = verify_checkpoints(ObjectStore(storage), "saving")
    assert (whole, damaged) == (3, [])
    assert len(committed_then) == KILLS
    measured(f"{KILLS} kills, {committed_then.count(False)} of them before the record; 0 partial checkpoints seen")


@pytest.mark.fault("hang")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank(
    kind: str, rank: int, uninterrupted: TrainSummary, storage: str, snapshot: str, measured: Callable[[str], None]
) -> None:
    """The other rank is then stuck in a collective, and is not the one to be named."""
    stopped: list[tuple[int, float]] = []
    named: list[tuple[int, float]] = []

    def stop(pids: list[int]) -> None:
        time.sleep(0.3)
        os.kill(pids[rank], signal.SIGSTOP)
        stopped.append((pids[rank], time.monotonic()))

    killer = Killer(1, stop)

    def listen(what: str, fields: dict[str, Any]) -> None:
        killer(what, fields)
        if what == "hung":
            named.append((fields["pid"], time.monotonic()))

    summary = train(run_file(storage, f"hung-{rank}", kind=kind, hang_timeout=HANG_S, **LONG), snapshot, listen)
    assert summary.network_digest == uninterrupted.network_digest
    assert [pid for pid, _ in named] == [pid for pid, _ in stopped]
    assert [fields["cause"] for fields in recovered(storage, f"hung-{rank}")] == ["hang"]
    measured(f"rank {rank} named and killed after {named[0][1] - stopped[0][1]:.1f} s of {HANG_S:.0f}")
