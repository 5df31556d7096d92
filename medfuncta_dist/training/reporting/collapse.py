"""When training goes wrong without stopping: stuck at the mean scan, or falling. Pure; the worker says what it finds.

(A loss or gradient that is not finite is no matter of opinion: it ends the run with TrainingCollapsedError.)
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Finding = Literal["stuck", "falling"]

WINDOW = 25
"""Outer steps whose losses are averaged: single batches differ by more than a collapse needs to show."""
PATIENCE = 300
"""Outer steps after which the latents should tell scans apart. Those that ever do, do within 50 (3 sizes tried)."""
STUCK_SHARE = 0.9
"""Of the scatter of scans about their mean: a loss above this is that of a field that draws the mean scan for all."""
FALL_DB = 3.0
"""Below the best so far: beyond what noise does to a window's mean, or to the held-out PSNR of a few scans."""
RECOVERED_DB = 1.0
"""A fall is over within so much of the best; a loss that sways about the limit is told of once."""

ADVICE: dict[Finding, str] = {
    "stuck": "the latents tell no scans apart: the loss is still that of the mean scan. Lower train.rate, set "
    "train.rate_by_omega (steps of one size turn phases of large ω too far), or lower meta.inner_rate",
    "falling": "the reconstruction is getting worse. Lower train.rate or meta.inner_rate, or set train.clip; "
    "checkpoints from before are kept as long as train.keep_checkpoints says",
}


def squares_about_mean(targets: Float[Tensor, "scan point channel"]) -> tuple[float, float]:
    """A rank's part of the scatter of scans: squares about its own mean scan, and their degrees of freedom."""
    free = (len(targets) - 1) * targets[0].numel() if len(targets) else 0
    return float((targets - targets.mean(0)).square().sum()) if free else 0.0, float(free)


def scatter(squares: float, freedom: float) -> float:
    """The variance of scans about their mean scan, from all ranks' parts added up; 0 when no rank has two scans."""
    return squares / freedom if freedom else 0.0


def is_stuck(step: int, steps: int, loss: float, scatter: float) -> bool:
    """Whether ``loss``, after ``step`` of ``steps`` outer steps, is that of a field without latents.

    ``scatter``: the variance of scans about the mean scan, at each point, averaged; 0 when it is not known.
    """
    patience = min(PATIENCE, max(WINDOW, steps // 2))
    return step >= patience and scatter > 0 and loss > STUCK_SHARE * scatter


def is_falling(best_db: float, now_db: float) -> bool:
    """Whether a PSNR is far below what it once was."""
    return now_db < best_db - FALL_DB


@dataclass
class Watch:
    """Remembers what the two rules need. Each finding is made once, and again only after it had gone away."""

    steps: int
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _scatters: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _best: dict[str, float] = field(default_factory=dict)
    _known: set[tuple[str, Finding]] = field(default_factory=set)

    def trained(self, step: int, loss: float, scatter: float) -> list[Finding]:
        """After ``step`` outer steps, the last of which had ``loss`` on scans of that ``scatter``."""
        self._losses.append(loss)
        self._scatters.append(scatter)
        if len(self._losses) < WINDOW:
            return []
        mean, scattered = sum(self._losses) / WINDOW, sum(self._scatters) / WINDOW
        stuck = self._new("train", "stuck", is_stuck(step, self.steps, mean, scattered))
        return stuck + self._fell("train", -10 * math.log10(max(mean, 1e-30)))

    def validated(self, psnr: float) -> list[Finding]:
        """A held-out PSNR (dB) was measured."""
        return self._fell("held out", psnr)

    def _fell(self, what: str, db: float) -> list[Finding]:
        best = self._best[what] = max(db, self._best.get(what, db))
        still_down = (what, "falling") in self._known and db < best - RECOVERED_DB
        return self._new(what, "falling", still_down or is_falling(best, db))

    def _new(self, what: str, finding: Finding, found: bool) -> list[Finding]:
        known = (what, finding) in self._known
        (self._known.add if found else self._known.discard)((what, finding))
        return [finding] if found and not known else []
