"""The one-standard-error rule: of what was tried, the simplest that is hardly worse than the best. Pure.

Held-out scans tell scores only so exactly. Whatever lies within one standard error of the best could be the best, and
the best itself is often the most flexible one, which had the most ways to be lucky. Breiman, Friedman, Olshen and
Stone, Classification and Regression Trees (1984), 3.4.3; Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning (2nd edition), 7.10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_place(scores: Sequence[float]) -> int | None:
    """Of the largest score, the first of equal ones; None where none is finite."""
    known = [place for place, score in enumerate(scores) if math.isfinite(score)]
    return max(known, key=lambda place: scores[place], default=None)


def simplest_place(scores: Sequence[float], complexities: Sequence[int], error: float) -> int | None:
    """Of the least complexity among scores within ``error``, the standard error of the best one, of the best; of equal
    complexity the better one, then the first. None where no score is finite."""
    best = best_place(scores)
    if best is None:
        return None
    within = [place for place, score in enumerate(scores) if score >= scores[best] - error]
    return min(within, key=lambda place: (complexities[place], -scores[place]))
