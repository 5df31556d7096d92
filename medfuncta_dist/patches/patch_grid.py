"""Where the patches of a scan lie: a pure function of the scan's shape, the size of a patch and the overlap.

Along an axis of n points, patches of s points begin every s - o points, o the overlap; the last one is moved back so
that it ends with the scan (it shares more than o points with the one before it). An axis shorter than a patch has one
patch, which begins at 0 and sticks out: points beyond the scan have no weight. Patches are numbered like the points of
an array, the last axis fastest. A scan of the size of a patch is a grid with one patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

Corner = tuple[int, ...]
"""The first point of a patch, per axis."""


@dataclass(frozen=True)
class PatchGrid:
    """The patches of a scan of ``shape`` points, each of ``size`` points, that share ``overlap`` with the next."""

    shape: tuple[int, ...]
    size: tuple[int, ...]
    overlap: tuple[int, ...]

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Per axis, the first points of its patches, ascending."""
        axes = zip(self.shape, self.size, self.overlap, strict=True)
        return tuple(_starts(points, size, overlap) for points, size, overlap in axes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Patches per axis."""
        axes = zip(self.shape, self.size, self.overlap, strict=True)
        return tuple(_count(points, size, overlap) for points, size, overlap in axes)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def corner(self, number: int) -> Corner:
        """The first point of a patch. IndexError for one that there is not."""
        if not 0 <= number < len(self):
            raise IndexError(f"patch {number} of {len(self)}")
        places = np.unravel_index(number, self.counts)
        return tuple(starts[int(place)] for starts, place in zip(self.starts, places, strict=True))

    def inside(self, corner: Corner) -> tuple[slice, ...]:
        """The points of the scan that a patch at this corner has: all of its own but those that stick out."""
        axes = zip(corner, self.size, self.shape, strict=True)
        return tuple(slice(start, min(start + size, points)) for start, size, points in axes)

    @cached_property
    def weights(self) -> npt.NDArray[np.float32] | None:
        """1 for the points of a patch that lie in the scan, 0 for those beyond it: the same for every patch, as along
        an axis that is shorter than a patch all begin at 0. None where all points lie in the scan."""
        if all(points >= size for points, size in zip(self.shape, self.size, strict=True)):
            return None
        found = np.zeros(self.size, np.float32)
        found[tuple(slice(points) for points in self.shape)] = 1
        return found

    def touching(self, region: Sequence[tuple[float, float]]) -> Iterator[int]:
        """Numbers, ascending, of the patches that decide values between the first and last position of a region, per
        axis, both included. Positions are in points of the scan, and may lie between two: there, the patches that end
        at the one and begin at the other both count."""
        axes = zip(self.starts, self.size, region, strict=True)
        near = [
            [place for place, start in enumerate(starts) if start - 1 < last and first < start + size]
            for starts, size, (first, last) in axes
        ]
        for places in product(*near):
            yield int(np.ravel_multi_index(places, self.counts))


def _count(points: int, size: int, overlap: int) -> int:
    """The number of ``_starts``, without them: of a shape that is not trusted, there may be too many to hold."""
    return 1 if points <= size else 1 - (size - points) // (size - overlap)


def _starts(points: int, size: int, overlap: int) -> tuple[int, ...]:
    if points <= size:
        return (0,)
    step = size - overlap
    last = points - size
    return (*range(0, last, step), last)
