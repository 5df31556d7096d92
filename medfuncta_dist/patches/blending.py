"""How much each patch of a grid counts at a position of the scan: 1 in all, and without a step from patch to patch.

Along an axis, a patch of points s … e counts by a trapezoid, which rises over overlap + 1 steps from 0 at s - 1, and
falls in the same way to 0 at e + 1:

    t(x) = min(1, (x - s + 1) / (overlap + 1), (e + 1 - x) / (overlap + 1)), and at least 0

divided by the sum over the axis's patches. Two regular neighbours then share their overlap linearly, with overlap 0
the step from the last point of one to the first of the next, and each position of the scan has a patch. The weight in
the scan is the product over its axes: those of all patches sum to 1, as they do along each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfuncta_dist.patches.patch_grid import PatchGrid

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Share:
    """Of one axis: which of the positions asked for a patch decides, with what weights, and where in the patch."""

    place: int
    """Of the patch on this axis, from 0."""
    part: slice
    """Of the positions: those at which it counts."""
    weights: Reals
    """At each of them, in (0, 1]."""
    local: Reals
    """The same positions as coordinates of the patch: -1 at its first point, 1 at its last. Up to a step beyond
    these, it is the nearest of them: a field is not asked for what lies outside the points that it was fitted to."""


def shares(starts: Sequence[int], size: int, overlap: int, positions: Reals) -> list[Share]:
    """The patches of one axis that count at any of its ascending ``positions``, in points of the scan. Takes memory for
    the positions, not for every patch at each of them."""
    found, total = [], np.zeros(len(positions))
    for place, start in enumerate(starts):
        part = _above(positions, start - 1, start + size)
        if part.stop > part.start:
            inside = np.minimum(positions[part] - (start - 1), start + size - positions[part])
            weights = np.minimum(inside / (overlap + 1), 1)
            total[part] += weights
            local = np.clip(2 * (positions[part] - start) / (size - 1) - 1, -1, 1)
            found.append(Share(place, part, weights, local))
    for share in found:
        share.weights[...] /= total[share.part]
    return found


def grid_shares(grid: PatchGrid, positions: Sequence[Reals]) -> list[list[Share]]:
    """The same of each axis of a grid."""
    axes = zip(grid.starts, grid.size, grid.overlap, positions, strict=True)
    return [shares(*axis) for axis in axes]


def _above(positions: Reals, before: float, after: float) -> slice:
    """Of ascending positions those between these two, both excluded."""
    first, stop = np.searchsorted(positions, before, side="right"), np.searchsorted(positions, after, side="left")
    return slice(int(first), int(stop))
