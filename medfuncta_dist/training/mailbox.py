"""Between workers and driver. The trainer makes an actor of it; this file imports little, so that it starts fast."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.liveness.heartbeat import Beat, Heartbeats, Hung


@dataclass(frozen=True)
class Reached:
    """The last sign of an attempt that has ended early: its step, when (s since 1970), and why it ended."""

    step: int
    time: float
    cause: str


class Mailbox:
    """An actor beside the driver: workers leave messages, heartbeats, uploaded files and fatal errors; the driver its
    wish to stop."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._failure: MedfunctaError | None = None
        self._stopping = False
        self._heartbeats = Heartbeats()
        self._reached: tuple[int, float] | None = None
        self._cause = "failure"
        self._files: dict[tuple[str, int], dict[int, Any]] = {}

    def post(self, kind: str, fields: dict[str, Any]) -> None:
        """From a worker."""
        if kind == "step":
            self._reached, self._cause = (fields["step"], time.time()), "failure"
        self._messages.append((kind, fields))

    def fail(self, error: MedfunctaError) -> None:
        """From a worker: an error that no restart heals. The first one counts."""
        self._failure = self._failure or error

    def failure(self) -> MedfunctaError | None:
        """The fatal error, if any."""
        return self._failure

    def stop(self) -> None:
        """From the driver: save and return."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether workers should save and return."""
        return self._stopping

    def drain(self) -> list[tuple[str, dict[str, Any]]]:
        """Messages since the last call, in order."""
        messages, self._messages = self._messages, []
        return messages

    def beat(self, beat: Beat) -> None:
        """From a worker: what it is doing."""
        self._heartbeats.hear(beat)

    def hung(self, timeout: float) -> list[Hung]:
        """Who keeps the others waiting for longer than ``timeout`` seconds."""
        return self._heartbeats.hung(timeout)

    def ended_hung(self) -> None:
        """From the driver: whoever hung has been killed, or was gone already."""
        self._cause = "hang"
        self._heartbeats.done()

    def over(self) -> None:
        """From rank 0, which has done its last thing: from now on silence means nothing."""
        self._heartbeats.done()

    def ends(self, step: int, cause: str) -> None:
        """This attempt ends at this step, by our own doing and for this reason."""
        self._reached, self._cause = (step, time.time()), cause
        self._heartbeats.done()

    def reached(self) -> Reached | None:
        """From a worker that starts: how far the attempt before, of this driver, got."""
        return None if self._reached is None else Reached(*self._reached, self._cause)

    def hand_in(self, attempt: str, step: int, rank: int, file: Any) -> None:
        """From a worker: its part of a checkpoint is in storage, or the reason why not."""
        self._files = {key: files for key, files in self._files.items() if key >= (attempt, step)}
        self._files.setdefault((attempt, step), {})[rank] = file

    def handed_in(self, attempt: str, step: int) -> dict[int, Any]:
        """What ranks have handed in for a checkpoint."""
        return self._files.get((attempt, step), {})
