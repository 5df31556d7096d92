"""The units of a shard, which are fitted one by one: the patches of its scans, in order. Pure.

Units count through the shard: the patches of its first scan, then those of the second one, and so on. A scan without
patches is one unit, so that its unit is its row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.patches.patch_grid import PatchGrid

MOST_UNITS = 10**8
"""Of a shard: names of ranges have eight digits for each end."""


@dataclass(frozen=True)
class GridSettings:
    """The grids that a run lays over its scans, whatever their shapes: points of a patch, and what two share."""

    size: tuple[int, ...]
    overlap: tuple[int, ...]

    def of(self, shape: Sequence[int]) -> PatchGrid:
        """The grid of a scan of so many points per axis."""
        return PatchGrid(tuple(shape), self.size, self.overlap)


@dataclass(frozen=True)
class ShardUnits:
    """Where the units of each scan of a shard begin, and, last, how many there are."""

    firsts: tuple[int, ...]

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], grids: GridSettings) -> ShardUnits:
        """Of scans of these shapes. RunFileError for more units than ranges can name."""
        counts: dict[tuple[int, ...], int] = {}
        for shape in map(tuple, shapes):
            if shape not in counts:
                counts[shape] = len(grids.of(shape))
        firsts = tuple(accumulate((counts[tuple(shape)] for shape in shapes), initial=0))
        if firsts[-1] >= MOST_UNITS:
            what = f"a shard has {firsts[-1]} patches, of at most {MOST_UNITS - 1}"
            raise RunFileError(what, where="data.patches.size", do="choose larger patches, or pack smaller shards")
        return cls(firsts)

    def __len__(self) -> int:
        return self.firsts[-1]

    @property
    def scans(self) -> int:
        """Of the shard."""
        return len(self.firsts) - 1

    def scan_of(self, unit: int) -> int:
        """The row of the scan that a unit belongs to."""
        return bisect_right(self.firsts, unit) - 1

    def patches(self, scan: int) -> int:
        """Units of the scan of this row."""
        return self.firsts[scan + 1] - self.firsts[scan]

    def scans_in(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The scans with a unit from ``start`` to ``stop`` (exclusive): row, and the first and last plus one of those
        of its patches, as the scan counts them."""
        for scan in range(self.scan_of(start), self.scan_of(stop - 1) + 1) if start < stop else ():
            first = self.firsts[scan]
            yield scan, max(start, first) - first, min(stop, self.firsts[scan + 1]) - first

    def within_one_scan(self, start: int, stop: int) -> bool:
        """Whether units ``start`` to ``stop`` (exclusive) are all of the same scan."""
        return self.scan_of(start) == self.scan_of(stop - 1)
