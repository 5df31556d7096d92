"""Detects training that goes wrong without stopping: stuck at the mean scan, or falling. Pure; the worker reports it.

(A loss or gradient that is not finite ends the run with TrainingCollapsedError.)
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

CollapseKind = Literal["stuck", "falling"]

WINDOW = 25
"""Outer steps whose losses are averaged: single batches differ by more than a collapse needs to show."""
PATIENCE = 300
"""Outer steps after which the latents should distinguish scans. Those that ever do, do within 50 (3 sizes tried)."""
STUCK_SHARE = 0.9
"""Of the scatter of scans about their mean: a loss above this is that of a field that draws the mean scan for all."""
FALL_DB = 3.0
"""Below the best so far: beyond what noise does to a window's mean, or to the held-out PSNR of a few scans."""
RECOVERED_DB = 1.0
"""A fall is over within so much of the best; a loss that sways about the limit is reported once."""

ADVICE: dict[CollapseKind, str] = {
    "stuck": "the latents do not distinguish scans: the loss is still that of the mean scan. Lower train.rate, set "
    "train.rate_by_omega (with equal steps, phases of large ω change too fast), or lower meta.inner_rate (of a SIREN) "
    "or raise meta.ridge (of a basis field)",
    "falling": "the reconstruction is getting worse. Lower train.rate, or meta.inner_rate of a SIREN, "
    "or raise meta.ridge of a basis field, or set train.clip; "
    "earlier checkpoints are kept as set in train.keep_checkpoints",
}


def squares_about_mean(targets: Float[Tensor, "scan point channel"]) -> tuple[Float[Tensor, ""], float]:
    """A rank's part of the scatter of scans: squares about its own mean scan (on the scans' device), and their degrees
    of freedom."""
    free = (len(targets) - 1) * targets[0].numel() if len(targets) else 0
    return (targets - targets.mean(0)).square().sum() if free else targets.new_zeros(()), float(free)


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
    """Whether a PSNR is far below its best."""
    return now_db < best_db - FALL_DB


@dataclass
class CollapseDetector:
    """Remembers what the two rules need. Each kind of collapse is reported once, and again only after it had ended."""

    steps: int
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _scatters: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _best: dict[str, float] = field(default_factory=dict)
    _known: set[tuple[str, CollapseKind]] = field(default_factory=set)

    def after_step(self, step: int, loss: float, scatter: float) -> list[CollapseKind]:
        """After ``step`` outer steps, the last of which had ``loss`` on scans of that ``scatter``."""
        self._losses.append(loss)
        self._scatters.append(scatter)
        if len(self._losses) < WINDOW:
            return []
        mean, scattered = sum(self._losses) / WINDOW, sum(self._scatters) / WINDOW
        stuck = self._report_new("train", "stuck", is_stuck(step, self.steps, mean, scattered))
        return stuck + self._check_fall("train", -10 * math.log10(max(mean, 1e-30)))

    def after_validation(self, psnr: float) -> list[CollapseKind]:
        """A held-out PSNR (dB) was measured."""
        return self._check_fall("held out", psnr)

    def _check_fall(self, what: str, db: float) -> list[CollapseKind]:
        best = self._best[what] = max(db, self._best.get(what, db))
        still_down = (what, "falling") in self._known and db < best - RECOVERED_DB
        return self._report_new(what, "falling", still_down or is_falling(best, db))

    def _report_new(self, what: str, kind: CollapseKind, found: bool) -> list[CollapseKind]:
        known = (what, kind) in self._known
        if found:
            self._known.add((what, kind))
        else:
            self._known.discard((what, kind))
        return [kind] if found and not known else []
