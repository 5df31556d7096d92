"""What rank 0 does besides its share: it keeps the driver informed, logs, and decides what depends on the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfuncta_dist.telemetry.artifact import Artifact, Role
from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence

POST_S = 1.0
"""Between progress messages to the driver."""
CHECK_S = 1.0
"""Between checks for a preemption notice or a request to stop: a spot node has as little as 6 s."""

UPLOAD_DELAY_S = 120.0
"""For so long a checkpoint is put off because the one before is under way: about what storage gives a request."""


@dataclass(frozen=True)
class StepRequests:
    """What rank 0 asks all ranks to do after this step; travels as one number in the step's all-reduce."""

    save: bool = False
    check_preemption: bool = False
    stop: bool = False

    def encode(self) -> float:
        """As a small whole number."""
        return float(self.save + 2 * self.check_preemption + 4 * self.stop)

    @classmethod
    def decode(cls, number: float) -> StepRequests:
        """The inverse."""
        bits = round(number)
        return cls(bool(bits & 1), bool(bits & 2), bool(bits & 4))


class Leader:
    """Rank 0's extra duties; on the other ranks (``telemetry`` None) every method does nothing.

    ``post(kind, **fields)`` sends to the driver without waiting, ``stop_requested`` asks it.
    """

    def __init__(
        self,
        telemetry: Telemetry | None,
        post: Callable[..., Any],
        stop_requested: Callable[[], bool],
        cadence: Cadence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._telemetry, self._post, self._stop_requested = telemetry, post, stop_requested
        self._cadence, self._clock = cadence, clock
        self._saved = self._checked = clock()
        self._posted = float("-inf")

    def requests(self, *, upload_running: bool) -> StepRequests:
        """What the clock and the driver ask for now. While an upload runs, a checkpoint is put off for a while: it
        would hold training up until the one before is stored."""
        if self._telemetry is None:
            return StepRequests()
        now = self._clock()
        check = now - self._checked >= CHECK_S
        if check:
            self._checked = now
        due = now - self._saved >= self._cadence.seconds + (UPLOAD_DELAY_S if upload_running else 0.0)
        return StepRequests(save=due, check_preemption=check, stop=check and self._stop_requested())

    def post_step(self, step: int, loss: float) -> None:
        """Tell the driver now and then that a step was taken."""
        if self._telemetry is not None and self._clock() - self._posted >= POST_S:
            self._posted = self._clock()
            self._post("step", step=step, loss=loss)

    def log(self, step: int, **metrics: float) -> None:
        """Log numbers of a step to every sink."""
        if self._telemetry is not None:
            self._telemetry.log(step, metrics)

    def log_validation(self, step: int, psnr: float, picture: np.ndarray | None = None) -> None:
        """Log the mean held-out PSNR (dB) after a step, and perhaps a picture, to every sink; post the number."""
        if self._telemetry is not None:
            self._telemetry.log(step, {"psnr": psnr})
            if picture is not None:
                self._telemetry.image("held_out", step, picture)
            self._post("validated", step=step, psnr=psnr)

    def notify(self, text: str) -> None:
        """Post a line for the person at the driver."""
        if self._telemetry is not None:
            self._post("note", text=text)

    def event(self, name: str, **fields: Any) -> None:
        """Log something that happened to every sink, and post it."""
        if self._telemetry is not None:
            self._telemetry.event(name, **fields)
            self._post(name, **fields)

    def artifact(self, artifact: Artifact, role: Role) -> None:
        """Log what training has read, or made, to every sink."""
        if self._telemetry is not None:
            self._telemetry.artifact(artifact, role)

    def checkpoint_taken(self) -> None:
        """The next checkpoint is due an interval from now."""
        self._saved = self._clock()

    def flush(self) -> None:
        """What was logged must be as durable as a checkpoint that is about to be committed. From any thread."""
        if self._telemetry is not None:
            self._telemetry.flush()

    def update_interval(self, stall_s: float, upload_s: float, step: int) -> None:
        """Choose anew how often to save, from what a checkpoint has just cost."""
        announcement = self._cadence.update(stall_s, upload_s)
        if announcement is not None:
            self.notify(announcement)
            self.event("interval", step=step, seconds=round(self._cadence.seconds, 1))
            self.log(step, checkpoint_interval_s=self._cadence.seconds)

    def close(self) -> None:
        """Flush and release the sinks."""
        if self._telemetry is not None:
            self._telemetry.close()
