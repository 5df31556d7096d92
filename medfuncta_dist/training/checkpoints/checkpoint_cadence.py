"""Seconds between checkpoints: as the run file sets them, or as pays best."""

from __future__ import annotations

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.training.checkpoints.checkpoint_interval import interval

ANNOUNCED_CHANGE = 1.2
"""An interval that changes by less is not announced."""


class Cadence:
    """Seconds between checkpoints that rank 0 asks for, as the run file sets them, or as pays best.

    ``between_failures_s`` is the expected time between failures of the whole run.
    """

    def __init__(self, train: Train, between_failures_s: float) -> None:
        self._chosen = train.checkpoint_steps is None and train.checkpoint_minutes is None
        self._between_failures_s = between_failures_s
        self._announced_s = 0.0
        self.seconds = self._first(train)

    def update(self, stall_s: float, upload_s: float) -> str | None:
        """A checkpoint cost this much: choose anew. Returns a line for people where the choice has changed much."""
        if not self._chosen:
            return None
        self.seconds = interval(stall_s, upload_s, self._between_failures_s)
        if self._announced_s and 1 / ANNOUNCED_CHANGE < self.seconds / self._announced_s < ANNOUNCED_CHANGE:
            return None
        self._announced_s = self.seconds
        hours = self._between_failures_s / 3600
        return (
            f"a checkpoint every {self.seconds:.0f} s: each delays training by {stall_s:.2f} s and takes "
            f"{upload_s:.1f} s to store, and a failure is expected every {hours:.1f} hours"
        )

    def _first(self, train: Train) -> float:
        if self._chosen:
            return interval(None, 0.0, self._between_failures_s)
        return 60 * train.checkpoint_minutes if train.checkpoint_minutes is not None else float("inf")
