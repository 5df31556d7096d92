"""Patches of scans as samples: each visit of a scan in training draws one, validation takes those of its grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfuncta_dist.patches.patch_grid import Corner, PatchGrid
from medfuncta_dist.patches.random_corner import random_corner
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader


@dataclass(frozen=True, eq=False)
class PatchDraws:
    """What an epoch reads: ``visits`` patches of each scan, each at a random corner. In the epoch's order, the rows
    scan x visits … scan x visits + visits - 1 are those of one scan."""

    reader: SampleReader
    size: tuple[int, ...]
    visits: int
    seed: int

    def __call__(self, place: SampleId, epoch: int) -> Sample:
        """The patch of a visit, the same at any world size. Its key is KEY/VISIT: augmentation differs by visit."""
        row, visit = divmod(place.row, self.visits)
        scan = SampleId(place.shard, row)
        key, meta = self.reader.keys(scan.shard)[row], self.reader.meta(scan)
        corner = random_corner(meta["shape"][1:], self.size, seed=self.seed, epoch=epoch, key=key, visit=visit)
        return Sample(f"{key}/{visit}", _values_at(self.reader, scan, meta, corner, self.size), meta)


def patch_at(reader: SampleReader, scan: SampleId, corner: Corner, size: Sequence[int]) -> Sample:
    """A patch as a sample of ``size`` points; only its bytes are read. Beyond the scan, its edge is repeated."""
    meta = reader.meta(scan)
    return Sample(reader.keys(scan.shard)[scan.row], _values_at(reader, scan, meta, corner, size), meta)


def _values_at(
    reader: SampleReader, scan: SampleId, meta: Mapping[str, Any], corner: Corner, size: Sequence[int]
) -> np.ndarray:
    grid = PatchGrid(tuple(meta["shape"][1:]), tuple(size), (0,) * len(size))
    array = reader.region(scan, grid.inside(corner))
    beyond = [(0, n - points) for n, points in zip(size, array.shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *beyond], mode="edge") if array.shape[1:] != tuple(size) else array


def spread_patches(
    reader: SampleReader, scans: Sequence[SampleId], size: Sequence[int], overlap: Sequence[int], count: int
) -> list[tuple[SampleId, Corner]]:
    """At most ``count`` patches of these scans' grids, evenly spread: over the scans, and over the places in them."""
    grids = [PatchGrid(reader.shapes(scan.shard)[scan.row], tuple(size), tuple(overlap)) for scan in scans]
    ends = np.cumsum([len(grid) for grid in grids])
    total = int(ends[-1]) if len(ends) else 0
    found = []
    for place in np.linspace(0, total - 1, min(count, total)).astype(int).tolist():
        nth = int(np.searchsorted(ends, place, side="right"))
        found.append((scans[nth], grids[nth].corner(place - int(ends[nth]) + len(grids[nth]))))
    return found


def patch_samples(
    reader: SampleReader, patches: Sequence[tuple[SampleId, Corner]], size: Sequence[int]
) -> Iterator[Sample]:
    """These patches, one by one."""
    for scan, corner in patches:
        yield patch_at(reader, scan, corner, size)
