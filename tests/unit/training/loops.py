"""A whole train loop in a rank's own process, without Ray: real scans, engine, checkpoints and events."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import TrainingCollapsedError
from medfuncta_dist.network.committed_network import committed_network
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.telemetry.event_log import EventLog, history, read_events
from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.attempt import Attempt
from medfuncta_dist.training.driver_channel import DriverChannel
from medfuncta_dist.training.mailbox import Mailbox
from medfuncta_dist.training.network_subject import NetworkSubject


class Here:
    """A mailbox in this process, called as Ray's actors are."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.mailbox, name))


def trained(
    run: RunFile,
    snapshot: str,
    change: Callable[[pytest.MonkeyPatch], object] = lambda patch: None,
    around: Callable[[Any], AbstractContextManager[object]] = lambda loop: nullcontext(),
) -> dict[str, Any]:
    """Train to the end in this process, a rank. What came of it: the error, the driver's messages, losses, network.

    ``change`` may patch before, ``around`` wraps the loop itself. Every step is posted, and none looks for a drained
    node, for which Ray would have to be there.
    """
    from medfuncta_dist.training import rank_setup, train_worker  # with deepspeed, which belongs into a rank's process

    here, error = Here(), ""

    def open_telemetry(run: RunFile, store: ObjectStore, attempt: Attempt) -> Telemetry:
        return Telemetry([lambda: EventLog(store, run.name, attempt.name)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_setup, "open_telemetry", open_telemetry)
        patch.setattr("medfuncta_dist.training.reporting.leader.POST_S", 0.0)
        patch.setattr("medfuncta_dist.training.reporting.leader.CHECK_S", math.inf)
        change(patch)
        channel = DriverChannel(here, lambda answer: answer)
        try:
            with (
                train_worker.open_training(run, NetworkSubject(snapshot), channel, ALONE, "node", time.time()) as loop,
                around(loop),
            ):
                loop.finish()
        except TrainingCollapsedError as collapsed:
            error = collapsed.what
        for thread in threading.enumerate():
            if thread.name == "upload":
                thread.join(10)
    return found(run, here, error)


def found(run: RunFile, here: Here, error: str) -> dict[str, Any]:
    store, messages = ObjectStore(run.storage), here.mailbox.drain()
    done = committed_network(store, run.name)
    return {
        "error": error,
        "steps": [[fields["step"], fields["loss"]] for kind, fields in messages if kind == "step"],
        "notes": [fields["text"] for kind, fields in messages if kind == "note"],
        "logged": [[step, loss] for step, loss in history(store, run.name, "loss")],
        "norms": [[step, norm] for step, norm in history(store, run.name, "gradient_norm")],
        "psnr": [[step, psnr] for step, psnr in history(store, run.name, "psnr")],
        "checkpoints": [info.path for info in store.list(f"runs/{run.name}/checkpoints/commits")],
        "events": [line["fields"] | {"name": line["name"]} for line in events(store, run)],
        "network": "" if done is None else done.digest,
    }


def events(store: ObjectStore, run: RunFile) -> list[dict[str, Any]]:
    return [line for line in read_events(store, run.name) if line["kind"] == "event"]


def packed_here(folder: Path) -> tuple[str, str]:
    """Storage and snapshot of a small data set."""
    from tests.integration.training_runs import packed

    storage = str(folder / "store")
    return storage, packed(storage, folder)
