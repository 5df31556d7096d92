"""Drivers of a training run: stopped past their lease, killed, and two at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from medfuncta_dist.storage.leases.lease import parse_lease, run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import history
from tests.chaos.runs import FULL, Driver, committed, drives, events, eventually, losses_by_attempt, stage_run
from tests.kinds import BY_KIND

pytestmark = pytest.mark.timeout(900)

SAVE = 50
ENDLESS: dict[str, Any] = {"steps": 1_000_000, "checkpoint_steps": SAVE}
LEASE_S = 4.0
Measured = Callable[[str], None]


def is_training(pids: list[int]) -> bool:
    """Whether any of these processes is still a training worker."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if any("TrainWorker" in word for word in psutil.Process(pid).cmdline()):
                return True
    return False


def pids(store: ObjectStore, name: str, attempt: int) -> list[int]:
    """The workers' processes of the nth attempt, once it has begun."""
    found = eventually(lambda: events(store, name, "started")[attempt:], f"start of attempt {attempt + 1}")
    return [int(pid) for pid in found[0]["pids"]]


def token(store: ObjectStore, name: str) -> int:
    return parse_lease(store.read(run_lease(name)), "").token


def generations(store: ObjectStore, name: str) -> set[str]:
    """Commit records by name."""
    return {info.path.rsplit("/", 1)[-1] for info in store.list(f"runs/{name}/checkpoints/commits")}


def ends_saved(driver: Driver) -> None:
    """SIGTERM: it saves, and says that it can be resumed."""
    driver.process.send_signal(signal.SIGTERM)
    code, answer = driver.ends()
    assert code == 5, answer


def require_one_history(store: ObjectStore, name: str) -> int:
    """Steps that several attempts took have the same loss to the bit, and none is missing; how many that is."""
    attempts, twice = losses_by_attempt(store, name), 0
    for before, after in pairwise(attempts):
        both = before.keys() & after.keys()
        assert [before[step] for step in both] == [after[step] for step in both]
        twice += len(both)
    steps = [step for step, _ in history(store, name)]
    assert steps == list(range(1, len(steps) + 1))
    return twice


@BY_KIND
@pytest.mark.slow
@pytest.mark.fault("driver-frozen")
@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_stopped_past_its_lease(
    kind: str, storage: str, snapshot: str, tmp_path: Path, measured: Measured
) -> None:
    """Its workers are other processes: they train on, and are fenced at their next commit, driver or no driver."""
    store, run = (
        ObjectStore(storage),
        stage_run(storage, f"frozen-{kind}", snapshot, kind=kind, lease_s=LEASE_S, **ENDLESS),
    )
    (tmp_path / "new").mkdir()
    with drives(run, tmp_path) as old:
        eventually(lambda: committed(store, run.name), "checkpoint")
        workers, former = pids(store, run.name, 0), token(store, run.name)
        os.kill(old.pid, signal.SIGSTOP)
        with drives(run, tmp_path / "new") as new:
            eventually(lambda: token(store, run.name) > former, "takeover")
            began, at_takeover = time.monotonic(), generations(store, run.name)
            eventually(lambda: not is_training(workers), "end of the stopped driver's workers")
            fenced_s = time.monotonic() - began
            by_old = {name for name in generations(store, run.name) if int(name.split("-")[1]) // 10_000 == former}
            assert len(by_old - at_takeover) <= 1, "only what had passed the fence before"
            os.kill(old.pid, signal.SIGCONT)
            code, answer = old.ends()
            assert code == 5, old.said()[-3000:]
            assert f"process {new.pid}" in answer["error"]["what"]
            first = eventually(lambda: events(store, run.name, "started")[1:], "start of the new driver")[0]["step"]
            eventually(lambda: max(committed(store, run.name)) > first, "checkpoint of the new driver")
            ends_saved(new)
    assert first >= SAVE
    twice = require_one_history(store, run.name)
    measured(f"its workers were gone {fenced_s:.1f} s after the takeover, itself with exit code 5 once it went on")
    measured(f"{twice} steps taken by both, equal to the bit")


@BY_KIND
@pytest.mark.fault("driver-kill")
@pytest.mark.skipif(not FULL, reason="half a minute; a short form of each is in tests/integration")
@pytest.mark.usefixtures("ray_cluster")
def test_a_second_driver_is_refused_and_a_killed_one_replaced(
    kind: str, storage: str, snapshot: str, tmp_path: Path, measured: Measured
) -> None:
    store, run = (
        ObjectStore(storage),
        stage_run(storage, f"two-{kind}", snapshot, kind=kind, lease_s=LEASE_S, **ENDLESS),
    )
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    with drives(run, folders[0]) as first:
        eventually(lambda: committed(store, run.name), "checkpoint")
        with drives(run, folders[1]) as second:
            code, answer = second.ends()
        assert (code, answer["error"]["kind"]) == (1, "RunHeldError")
        assert f"process {first.pid} on" in answer["error"]["what"]
        assert "until" in answer["error"]["what"]
        saved = max(committed(store, run.name))
        first.kill()
        began = time.monotonic()
        with drives(run, folders[2]) as third:
            fields = eventually(lambda: events(store, run.name, "recovered"), "first new step")[0]
            took = time.monotonic() - began
            assert events(store, run.name, "started")[1]["step"] >= saved
            assert fields["redone"] <= 2 * SAVE
            eventually(lambda: max(committed(store, run.name)) > saved + SAVE, "checkpoint of the third driver")
            ends_saved(third)
        assert "taking over" in third.said()
    require_one_history(store, run.name)
    measured(f"the second refused by name; after SIGKILL steps again in {took:.0f} s, {fields['redone']} redone")
