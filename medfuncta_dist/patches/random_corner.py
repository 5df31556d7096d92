"""Where a training patch begins: at random, anew at each visit of a scan, and not on the grid of its fitted patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfuncta_dist.patches.patch_grid import Corner
from medfuncta_dist.random_numbers import random_numbers


def random_corner(shape: Sequence[int], size: Sequence[int], *, seed: int, epoch: int, key: str, visit: int) -> Corner:
    """The first point of a patch of ``size`` points in a scan of ``shape`` points: uniform over all at which it fits.

    It depends on the arguments alone, never on rank or place in a batch. An axis shorter than the patch begins at 0.
    """
    # The remainder of a 64-bit number prefers none of a few thousand corners by more than one part in 10^15.
    corners = np.maximum(np.subtract(shape, size) + 1, 1).astype(np.uint64)
    return tuple(map(int, random_numbers(len(corners), "patch", seed, epoch, key, visit) % corners))
