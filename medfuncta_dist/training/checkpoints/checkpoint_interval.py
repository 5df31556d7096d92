"""How often to save: often enough that little is lost, rarely enough that saving costs little. Pure.

Young (1974), doi:10.1145/361147.361115: with a checkpoint that costs C seconds and a failure every M seconds, the time
lost to both is least when C·M/T² is one half, that is at T = √(2·C·M).
"""

from __future__ import annotations

import math

SHORTEST_S = 30.0
"""Starting again takes about as long, so saving more often gains nothing."""
LONGEST_S = 3600.0
"""The most that a failure may cost, however rare failures are: their rate is an estimate."""
FIRST_S = 60.0
"""Before the first checkpoint was measured."""


def time_between_failures(prior_s: float, observed_s: float, failures: int) -> float:
    """Seconds between failures of the whole run: the prior counts as one failure in ``prior_s`` seconds."""
    return (prior_s + observed_s) / (1 + failures)


def young(cost_s: float, between_failures_s: float) -> float:
    """√(2·C·M), seconds."""
    return math.sqrt(2 * cost_s * between_failures_s)


def interval(cost_s: float | None, upload_s: float, between_failures_s: float) -> float:
    """Seconds between checkpoints: Young's, within bounds, and never shorter than an upload takes.

    ``cost_s`` is what a checkpoint keeps training from its steps; None before the first one.
    """
    if cost_s is None:
        return FIRST_S
    return max(SHORTEST_S, upload_s, min(LONGEST_S, young(cost_s, between_failures_s)))
