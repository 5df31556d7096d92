"""Between workers and driver. The trainer makes an actor of it; this file imports little, so that it starts fast."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.liveness.heartbeat import Heartbeat, HeartbeatMonitor, HungRank

HALVED = "halved"
"""The message of a rank that ran out of memory and goes on with half the chunks."""


@dataclass(frozen=True)
class AttemptEnd:
    """The last sign of life of an attempt that ended early: its step, when (s since 1970), and why it ended."""

    step: int
    time: float
    cause: str


class Mailbox:
    """An actor beside the driver. Workers leave messages, heartbeats, checkpoint files and fatal errors here;
    the driver leaves its request to stop."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._failure: MedfunctaError | None = None
        self._stop_requested = False
        self._heartbeats = HeartbeatMonitor()
        self._last_step: tuple[int, float] | None = None
        """And when it was reported."""
        self._cause = "failure"
        self._files: dict[tuple[str, int], dict[int, Any]] = {}

    def post(self, kind: str, fields: dict[str, Any]) -> None:
        """From a worker: a message for the driver."""
        if kind == "step":
            self._last_step = (fields["step"], time.time())
            self._cause = "failure"
        self._messages.append((kind, fields))

    def fail(self, error: MedfunctaError) -> None:
        """From a worker: an error that no restart can fix. The first one counts."""
        self._failure = self._failure or error

    def failure(self) -> MedfunctaError | None:
        """The fatal error, if any."""
        return self._failure

    def request_stop(self) -> None:
        """From the driver: save and return."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Whether workers should save and return."""
        return self._stop_requested

    def drain(self) -> list[tuple[str, dict[str, Any]]]:
        """Messages since the last call, in order."""
        messages, self._messages = self._messages, []
        return messages

    def record_heartbeat(self, heartbeat: Heartbeat) -> None:
        """From a worker: what it is doing."""
        self._heartbeats.record(heartbeat)

    def find_hung(self, timeout: float) -> list[HungRank]:
        """The ranks that keep the others waiting for longer than ``timeout`` seconds."""
        return self._heartbeats.find_hung(timeout)

    def mark_hung_killed(self) -> None:
        """From the driver: the ranks that hung have been killed, or were gone already."""
        self._cause = "hang"
        self._heartbeats.end_attempt()

    def mark_finished(self) -> None:
        """From rank 0, which has done the last thing it does: from now on silence is no sign of a hang."""
        self._heartbeats.end_attempt()

    def end_attempt(self, step: int, cause: str) -> None:
        """From rank 0: this attempt ends at this step on purpose, for this reason."""
        self._last_step = (step, time.time())
        self._cause = cause
        self._heartbeats.end_attempt()

    def previous_attempt_end(self) -> AttemptEnd | None:
        """From a worker that starts: how far this driver's previous attempt got."""
        return None if self._last_step is None else AttemptEnd(*self._last_step, self._cause)

    def submit_share(self, attempt: str, step: int, rank: int, file: Any) -> None:
        """From a worker: its part of a checkpoint is in storage, or the reason why it is not."""
        self._files = {key: files for key, files in self._files.items() if key >= (attempt, step)}
        self._files.setdefault((attempt, step), {})[rank] = file

    def submitted_shares(self, attempt: str, step: int) -> dict[int, Any]:
        """What ranks have submitted for a checkpoint."""
        return self._files.get((attempt, step), {})
