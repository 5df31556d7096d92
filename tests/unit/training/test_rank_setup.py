"""A start that fails halfway leaves nothing of it behind: no thread, no open telemetry, no heartbeat to be missed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.telemetry.artifact import Artifact, Role
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.attempt import Attempt
from medfuncta_dist.training.driver_channel import DriverChannel
from medfuncta_dist.training.liveness.heartbeat import HeartbeatMonitor
from medfuncta_dist.training.mailbox import Mailbox
from medfuncta_dist.training.network_subject import NetworkSubject
from medfuncta_dist.training.rank_sums import RankSums
from tests.integration.training_runs import packed, run_file
from tests.unit.training.ranks import on_ranks

OURS = {"heartbeat", "prefetch", "events", "upload"}
"""Names of the threads that training starts."""


LONG_S = 2000.0
"""Longer than any phase may take."""


class Here:
    """A mailbox in this process, called as Ray's actors are; it remembers which of its methods were."""

    def __init__(self) -> None:
        self.mailbox, self.later, self.called = Mailbox(), 0.0, set[str]()
        self.mailbox._heartbeats = HeartbeatMonitor(lambda: time.monotonic() + self.later)

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return SimpleNamespace(remote=getattr(self.mailbox, name))


class Witness:
    """A sink that counts how often it was opened and closed."""

    def __init__(self) -> None:
        self.opened, self.closed = 0, 0

    def open(self) -> Witness:
        self.opened += 1
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def event(self, name: str, **fields: Any) -> None: ...

    def image(self, name: str, step: int, array: np.ndarray) -> None: ...

    def artifact(self, artifact: Artifact, role: Role) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def damage_checkpoints(store: ObjectStore) -> None:
    name = "000000002-0000000000000001-20260101T000000-aaaa"
    store.write(f"runs/r/checkpoints/commits/{name}.json", b"{")


def left() -> list[str]:
    """Our threads that still live, once those that were told to stop have had their time."""
    deadline = time.monotonic() + 10
    while True:
        alive = sorted(OURS & {thread.name for thread in threading.enumerate()})
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.02)


def failed_start(folder: Path, what: str) -> dict[str, Any]:
    """Open a rank's training, which fails; what is left of it."""
    from medfuncta_dist.training import (
        rank_setup,  # with deepspeed, which belongs into a rank's process
        train_worker,  # with deepspeed, which belongs into a rank's process
    )

    run, here, witness = run_file(str(folder / "store"), "r"), Here(), Witness()
    snapshot = packed(run.storage, folder)

    def open_telemetry(run: RunFile, store: ObjectStore, attempt: Attempt) -> Telemetry:
        return Telemetry([lambda: EventLog(store, run.name, attempt.name), witness.open])

    def raising_engine(*_: Any) -> None:
        assert {"heartbeat", "prefetch"} <= {thread.name for thread in threading.enumerate()}
        raise ValueError("no engine today")

    error = "none"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_setup, "open_telemetry", open_telemetry)
        if what == "restore":
            damage_checkpoints(ObjectStore(run.storage))
        if what == "engine":
            patch.setattr(rank_setup, "Engine", raising_engine)
        try:
            channel = DriverChannel(here, lambda answer: answer)
            with train_worker.open_training(
                run, NetworkSubject(snapshot), channel, ALONE, "node", time.time()
            ) as training:
                assert training.first == 0
                assert training.learner.ranks == RankSums(training.world, training.heartbeat)
                raise ValueError("a step went wrong")
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
    here.later = LONG_S
    hung = [one.reason for one in here.mailbox.find_hung(run.train.hang_timeout)]
    heard = "record_heartbeat" in here.called
    closed = {"opened": witness.opened, "closed": witness.closed}
    return {"error": error, "threads": left(), **closed, "heard": heard, "hung": hung}


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("restore", "IntegrityError: none of the 1 checkpoints is whole"),
        ("engine", "ValueError: no engine today"),
        ("step", "ValueError: a step went wrong"),
    ],
)
def test_whatever_fails_all_that_was_opened_is_closed(tmp_path: Path, what: str, error: str) -> None:
    [found] = on_ranks(1, failed_start, tmp_path, what, folder=tmp_path)
    assert found["error"].startswith(error)
    assert found["threads"] == []
    assert (found["opened"], found["closed"]) == (1, 1)
    assert found["heard"], "else nobody would miss its heartbeat"
    assert found["hung"] == [], "its attempt has ended: its silence is no sign of a hang"
