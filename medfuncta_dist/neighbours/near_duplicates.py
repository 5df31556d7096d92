"""Which pairs of scans are nearer than scans of this table are to each other, and how near that is. Pure.

Most scans have their nearest neighbour at about the same distance. The logarithms of these distances have a median m
and a spread s, which the half below it decides: (m − lower quartile) / 0.6745, a standard deviation where they are
normal. Pairs at or below exp(m − 6 s) are no such neighbours: of a billion scans, one would be so near by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

QUARTILE = 0.6745
"""Standard deviations between the median of a normal distribution and its lower quartile."""
SPREADS = 6.0
"""Standard deviations below the median."""
LEAST_SCANS = 20
"""With fewer, nothing tells how near scans usually are."""


@dataclass(frozen=True)
class Typical:
    """How near the nearest scan usually is. All distances under one metric."""

    median: float
    threshold: float
    """Pairs at or below it are near-duplicates; 0 where only equal latents are."""


@dataclass(frozen=True)
class Pair:
    """Two scans, the first key before the second."""

    keys: tuple[str, str]
    splits: tuple[str, str]
    distance: float
    same_patient: bool | None = None
    """None where the patient of one of them is not known."""

    @property
    def across(self) -> bool:
        """Whether they are in different splits."""
        return self.splits[0] != self.splits[1]


def typical(nearest: Float[np.ndarray, " scan"]) -> Typical:
    """From the distance of each scan to its nearest neighbour."""
    known = nearest[np.isfinite(nearest)]
    if len(known) < LEAST_SCANS:
        return Typical(float(np.median(known)) if len(known) else 0.0, 0.0)
    median, quartile = (float(np.quantile(known, share)) for share in (0.5, 0.25))
    if not quartile > 0:
        return Typical(median, 0.0)
    spread = (math.log(median) - math.log(quartile)) / QUARTILE
    return Typical(median, math.exp(math.log(median) - SPREADS * spread))


def close_pairs(
    distances: Float[np.ndarray, "scan near"], others: Int[np.ndarray, "scan near"], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """(a, b, distance), a < b, of each pair at or below the threshold, the nearest first. ``others``: -1 for none."""
    scans, near = np.nonzero((distances <= threshold) & (others >= 0))
    found: dict[tuple[int, int], float] = {}
    for scan, other, distance in zip(
        scans.tolist(), others[scans, near].tolist(), distances[scans, near].tolist(), strict=True
    ):
        pair = (min(scan, other), max(scan, other))
        found[pair] = min(distance, found.get(pair, math.inf))
    yield from ((a, b, distance) for (a, b), distance in sorted(found.items(), key=lambda item: (item[1], item[0])))


def with_patients(pairs: Sequence[Pair], patients: Mapping[str, str]) -> list[Pair]:
    """The pairs with what is known of whose they are (key of a scan → key of its patient, "" for unknown)."""
    return [
        Pair(one.keys, one.splits, one.distance, _same(*(patients.get(key, "") for key in one.keys))) for one in pairs
    ]


def _same(first: str, second: str) -> bool | None:
    return first == second if first and second else None


def in_order(pairs: Sequence[Pair]) -> list[Pair]:
    """Those in different splits first, nearer ones before others."""
    return sorted(pairs, key=lambda one: (not one.across, one.distance, one.keys))
