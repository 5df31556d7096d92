"""What rank 0 does besides its share: it tells the driver, logs, and decides what depends on the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence

POST_S = 1.0
"""Between progress messages to the driver."""
LOOK_S = 1.0
"""Between looks for a preemption notice or a wish to stop: a spot node has as little as 6 s."""

PUT_OFF_S = 120.0
"""For so long a checkpoint is put off because the one before is under way: about what storage gives a request."""


@dataclass(frozen=True)
class Wishes:
    """What rank 0 wants all ranks to do after this step; travels as one number in the step's all-reduce."""

    save: bool = False
    look: bool = False
    stop: bool = False

    def encode(self) -> float:
        """As a small whole number."""
        return float(self.save + 2 * self.look + 4 * self.stop)

    @classmethod
    def decode(cls, number: float) -> Wishes:
        """The inverse."""
        bits = round(number)
        return cls(bool(bits & 1), bool(bits & 2), bool(bits & 4))


class Leader:
    """Rank 0's extra duties; on the other ranks (``telemetry`` None) every method does nothing.

    ``tell(kind, **fields)`` reaches the driver without waiting, ``asked_to_stop`` asks it.
    """

    def __init__(
        self,
        telemetry: Telemetry | None,
        tell: Callable[..., Any],
        asked_to_stop: Callable[[], bool],
        cadence: Cadence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._telemetry, self._tell, self._asked_to_stop, self._clock = telemetry, tell, asked_to_stop, clock
        self._cadence = cadence
        self._saved = self._looked = clock()
        self._posted = float("-inf")

    def wishes(self, *, busy: bool) -> Wishes:
        """What the clock and the driver want now. While an upload keeps the saver ``busy``, a checkpoint is put off for
        a while: it would hold training up until the one before is stored."""
        if self._telemetry is None:
            return Wishes()
        now = self._clock()
        look = now - self._looked >= LOOK_S
        if look:
            self._looked = now
        due = now - self._saved >= self._cadence.seconds + (PUT_OFF_S if busy else 0.0)
        return Wishes(save=due, look=look, stop=look and self._asked_to_stop())

    def at(self, step: int, loss: float) -> None:
        """A step was taken: tell the driver, now and then."""
        if self._telemetry is not None and self._clock() - self._posted >= POST_S:
            self._posted = self._clock()
            self._tell("step", step=step, loss=loss)

    def log(self, step: int, **metrics: float) -> None:
        """Numbers of a step, to every sink."""
        if self._telemetry is not None:
            self._telemetry.log(step, metrics)

    def validated(self, step: int, psnr: float, picture: np.ndarray | None = None) -> None:
        """Mean held-out PSNR (dB) after a step, and perhaps a picture: to every sink; the number to the driver, too."""
        if self._telemetry is not None:
            self._telemetry.log(step, {"psnr": psnr})
            if picture is not None:
                self._telemetry.image("held_out", step, picture)
            self._tell("validated", step=step, psnr=psnr)

    def say(self, text: str) -> None:
        """A line for the person at the driver."""
        if self._telemetry is not None:
            self._tell("note", text=text)

    def event(self, name: str, **fields: Any) -> None:
        """Something that happened, to every sink and to the driver."""
        if self._telemetry is not None:
            self._telemetry.event(name, **fields)
            self._tell(name, **fields)

    def saving(self) -> None:
        """A checkpoint was taken: the next one is due an interval from now."""
        self._saved = self._clock()

    def flush(self) -> None:
        """What was logged must be as durable as a checkpoint that is about to be committed. From any thread."""
        if self._telemetry is not None:
            self._telemetry.flush()

    def costs(self, stall_s: float, upload_s: float, step: int) -> None:
        """What a checkpoint cost decides how often there is one."""
        said = self._cadence.costs(stall_s, upload_s)
        if said is not None:
            self.say(said)
            self.event("interval", step=step, seconds=round(self._cadence.seconds, 1))
            self.log(step, checkpoint_interval_s=self._cadence.seconds)

    def close(self) -> None:
        """Flush and release the sinks."""
        if self._telemetry is not None:
            self._telemetry.close()
