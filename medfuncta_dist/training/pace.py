"""How fast and how well training goes: numbers of the steps since they were last taken."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Pace:
    """Collects one entry a step; ``take`` turns them into metrics and starts anew."""

    batch: int
    _losses: list[float] = field(default_factory=list)
    _seconds: float = 0.0
    _waited: float = 0.0

    def add(self, loss: float, seconds: float, waited: float) -> None:
        """A step: its loss, its duration, and how much of that was spent waiting for data (mean over ranks)."""
        self._losses.append(loss)
        self._seconds += seconds
        self._waited += waited

    def take(self) -> dict[str, float]:
        """``loss`` (mean), ``s_per_step``, ``samples_per_s``, ``data_wait`` (a share of the time, 0..1)."""
        steps, seconds = max(1, len(self._losses)), max(self._seconds, 1e-9)
        metrics = {
            "loss": sum(self._losses) / steps,
            "s_per_step": seconds / steps,
            "samples_per_s": self.batch * steps / seconds,
            "data_wait": min(1.0, self._waited / seconds),
        }
        self._losses, self._seconds, self._waited = [], 0.0, 0.0
        return metrics
