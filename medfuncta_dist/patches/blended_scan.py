"""A scan put together from its patches, slab by slab: at any positions, with a slab of values in memory, not a scan."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medfuncta_dist.patches.blending import Reals, Share, grid_shares
from medfuncta_dist.patches.patch_grid import PatchGrid

Values = npt.NDArray[np.float32]
DecodePatches = Callable[[list[int], Sequence[Reals]], Values]
"""From the numbers of patches and their coordinates along each axis, from -1 to 1, to (patch, channel, *points)."""

SLAB_VALUES = 2**22
"""Values of a slab: 16 MB. A slab has at least one plane, however large that is."""
DECODED_VALUES = 2**20
"""Values of the patches that are decoded at a time: 4 MB, enough points for one call."""


class Slab(NamedTuple):
    """Consecutive planes of a scan across one of its axes."""

    first: int
    """Among the positions of that axis."""
    values: Values
    """(channel, *spatial)."""


def native_positions(shape: Sequence[int], target: Sequence[int]) -> list[Reals]:
    """Per axis, where the points of a grid of ``target`` points lie, in points of a scan of ``shape``: both fill the
    same field of view, ends included."""
    return [np.linspace(0, n - 1, m) for n, m in zip(shape, target, strict=True)]


def blended_slabs(
    grid: PatchGrid,
    positions: Sequence[Reals],
    decode: DecodePatches,
    channels: int,
    across: int = 0,
    slab_values: int = SLAB_VALUES,
) -> Iterator[Slab]:
    """The values at the grid of ``positions`` (per axis ascending, in points of the scan), one slab after the other.

    ``across``: the axis that a slab is thin along, the slowest one of what is written. Only patches that count in a
    slab are decoded, and only at their points in it: no point of a patch is decoded twice.
    """
    lengths = [len(axis) for axis in positions]
    plane = channels * math.prod(lengths) // max(lengths[across], 1)
    planes = max(1, slab_values // max(plane, 1))
    for first in range(0, lengths[across], planes):
        part = list(positions)
        part[across] = positions[across][first : first + planes]
        yield Slab(first, _blended(grid, part, decode, channels))


def blended(grid: PatchGrid, positions: Sequence[Reals], decode: DecodePatches, channels: int) -> Values:
    """All of them at once: (channel, *spatial)."""
    found = np.empty((channels, *map(len, positions)), np.float32)
    for first, values in blended_slabs(grid, positions, decode, channels):
        found[:, first : first + values.shape[1]] = values
    return found


def _blended(grid: PatchGrid, positions: Sequence[Reals], decode: DecodePatches, channels: int) -> Values:
    total = np.zeros((channels, *map(len, positions)), np.float32)
    for alike in product(*map(_alike, grid_shares(grid, positions))):
        local = [shares[0].local for shares in alike]
        patches = list(product(*alike))
        at_once = max(1, DECODED_VALUES // (channels * math.prod(map(len, local))))
        for start in range(0, len(patches), at_once):
            _add(total, patches[start : start + at_once], grid, decode, local)
    return total


def _alike(shares: list[Share]) -> list[list[Share]]:
    """Those of an axis with the same coordinates, which are decoded together: at a scan's own points, all but a few."""
    groups: defaultdict[bytes, list[Share]] = defaultdict(list)
    for share in shares:
        groups[share.local.tobytes()].append(share)
    return list(groups.values())


def _add(
    total: Values, patches: list[tuple[Share, ...]], grid: PatchGrid, decode: DecodePatches, local: Sequence[Reals]
) -> None:
    numbers = [int(np.ravel_multi_index([share.place for share in patch], grid.counts)) for patch in patches]
    for patch, values in zip(patches, decode(numbers, local), strict=True):
        where = (slice(None), *(share.part for share in patch))
        for axis, share in enumerate(patch):
            after = (1,) * (len(patch) - axis - 1)
            values = values * share.weights.astype(np.float32).reshape(-1, *after)
        total[where] += values
