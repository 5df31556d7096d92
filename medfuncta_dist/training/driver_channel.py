"""How a worker talks to its driver: calls on the mailbox beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.liveness.heartbeat import Heartbeat
from medfuncta_dist.training.mailbox import AttemptEnd


class DriverChannel:
    """Calls on the mailbox's actor. Those that ask wait for the answer (``get`` is ray's); those that only send do not,
    unless their docstring says so."""

    def __init__(self, mailbox: Any, get: Callable[[Any], Any], attempt: str = "") -> None:
        self._mailbox, self._get, self._attempt = mailbox, get, attempt

    def for_attempt(self, attempt: str) -> DriverChannel:
        """The channel of a worker in this attempt."""
        return DriverChannel(self._mailbox, self._get, attempt)

    def post(self, kind: str, **fields: Any) -> None:
        """Send a message to the driver."""
        self._mailbox.post.remote(kind, fields)

    def send_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Send what this rank is doing."""
        self._mailbox.record_heartbeat.remote(heartbeat)

    def report_failure(self, error: MedfunctaError) -> None:
        """Send an error that no restart can fix. It has arrived when this returns."""
        self._get(self._mailbox.fail.remote(error))

    def has_failed(self) -> bool:
        """Whether there is such an error."""
        return self._get(self._mailbox.failure.remote()) is not None

    def stop_requested(self) -> bool:
        """Whether the driver wants all workers to save and return."""
        return bool(self._get(self._mailbox.stop_requested.remote()))

    def mark_finished(self) -> None:
        """Rank 0 has done the last thing it does."""
        self._mailbox.mark_finished.remote()

    def end_attempt(self, step: int, cause: str) -> None:
        """This attempt ends at this step on purpose, for this reason. It has arrived when this returns."""
        self._get(self._mailbox.end_attempt.remote(step, cause))

    def previous_attempt_end(self) -> AttemptEnd | None:
        """How far this driver's previous attempt got."""
        found: AttemptEnd | None = self._get(self._mailbox.previous_attempt_end.remote())
        return found

    def submit_share(self, step: int, rank: int, file: Any) -> None:
        """Submit this rank's part of a checkpoint, or why it could not be written. It has arrived when this returns."""
        self._get(self._mailbox.submit_share.remote(self._attempt, step, rank, file))

    def submitted_shares(self, step: int) -> dict[int, Any]:
        """Every part that was submitted so far, by rank."""
        found: dict[int, Any] = self._get(self._mailbox.submitted_shares.remote(self._attempt, step))
        return found
