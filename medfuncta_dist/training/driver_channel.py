"""A worker's line to the mailbox beside the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.liveness.heartbeat import Beat
from medfuncta_dist.training.mailbox import Reached


class Line:
    """Calls on the mailbox's actor. Those that ask wait for the answer (``get`` is ray's), those that tell do not."""

    def __init__(self, mailbox: Any, get: Callable[[Any], Any], attempt: str = "") -> None:
        self._mailbox, self._get, self._attempt = mailbox, get, attempt

    def of(self, attempt: str) -> Line:
        """The line of a worker in this attempt."""
        return Line(self._mailbox, self._get, attempt)

    def tell(self, kind: str, **fields: Any) -> None:
        """A message for the driver."""
        self._mailbox.post.remote(kind, fields)

    def beat(self, beat: Beat) -> None:
        """What this rank is doing."""
        self._mailbox.beat.remote(beat)

    def fail(self, error: MedfunctaError) -> None:
        """An error that no restart heals. It has arrived when this returns."""
        self._get(self._mailbox.fail.remote(error))

    def has_failed(self) -> bool:
        """Whether there is such an error."""
        return self._get(self._mailbox.failure.remote()) is not None

    def stopping(self) -> bool:
        """Whether the driver wants all to save and return."""
        return bool(self._get(self._mailbox.stopping.remote()))

    def over(self) -> None:
        """Rank 0 has done its last thing."""
        self._mailbox.over.remote()

    def ends(self, step: int, cause: str) -> None:
        """This attempt ends at this step, for a reason that is no failure."""
        self._get(self._mailbox.ends.remote(step, cause))

    def reached(self) -> Reached | None:
        """How far this driver's attempt before got."""
        found: Reached | None = self._get(self._mailbox.reached.remote())
        return found

    def hand_in(self, step: int, rank: int, file: Any) -> None:
        """This rank's part of a checkpoint, or why it could not be written."""
        self._get(self._mailbox.hand_in.remote(self._attempt, step, rank, file))

    def handed_in(self, step: int) -> dict[int, Any]:
        """Every part so far."""
        found: dict[int, Any] = self._get(self._mailbox.handed_in.remote(self._attempt, step))
        return found
