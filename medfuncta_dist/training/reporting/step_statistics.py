"""How fast and how well training goes: numbers of the steps since they were last taken."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class StepStatistics:
    """Collects one entry per step; ``take_metrics`` turns them into metrics and starts anew.

    ``since`` is when the attempt before last gave a sign of life, or this one began (s since 1970); steps up to
    ``redone`` had been taken before.
    """

    batch: int
    since: float = field(default_factory=time.time)
    redone: int = 0
    _losses: list[float] = field(default_factory=list)
    _steps: int = 0
    _seconds: float = 0.0
    _waited: float = 0.0
    _useful: float = 0.0

    def add(self, step: int, seconds: float, waited: float) -> None:
        """A step: its duration, and how much of that was spent waiting for data (mean over ranks)."""
        self._useful += max(0.0, seconds - waited) if step > self.redone else 0.0
        self._steps += 1
        self._seconds += seconds
        self._waited += waited

    def add_loss(self, loss: float) -> None:
        """The loss of a step, which may be known later than the rest; of all steps before their metrics are taken."""
        self._losses.append(loss)

    def take_metrics(self) -> dict[str, float]:
        """``loss`` (mean), ``s_per_step``, ``samples_per_s``, ``data_wait`` (a share of the time, 0..1), ``goodput``.

        Goodput is the share (0..1) of all time since ``since`` that went into steps which had not been taken before,
        less their wait for data.
        """
        steps, seconds = max(1, self._steps), max(self._seconds, 1e-9)
        metrics = {
            "loss": sum(self._losses) / max(1, len(self._losses)),
            "s_per_step": seconds / steps,
            "samples_per_s": self.batch * steps / seconds,
            "data_wait": min(1.0, self._waited / seconds),
            "goodput": min(1.0, self._useful / max(time.time() - self.since, 1e-9)),
        }
        self._losses, self._steps = [], 0
        self._seconds = self._waited = 0.0
        return metrics
