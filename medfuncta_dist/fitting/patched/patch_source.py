"""The patches of a shard's scans, read one by one from its verified bytes, as what is fitted."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ScanError
from medfuncta_dist.fitting.fit_rows import DAMAGED_SAMPLE, WRONG_SHAPE, Described, LostPatch, PatchPlace, Place
from medfuncta_dist.fitting.patched.shard_units import GridSettings, ShardUnits
from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.scans.scan import Window
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader


class PatchSource:
    """The units of the first shard of a reader: the patches of its scans, in order."""

    def __init__(self, reader: SampleReader, grids: GridSettings) -> None:
        self._reader, self._grids = reader, grids
        self._keys, self._shapes = reader.keys(0), reader.shapes(0)
        self._units = ShardUnits.of(self._shapes, grids)
        # Neighbouring units are mostly of one scan: its facts are read once.
        self._meta = lru_cache(2)(lambda scan: reader.meta(SampleId(0, scan)))
        self._grid = lru_cache(2)(lambda scan: grids.of(self._shapes[scan]))

    def __len__(self) -> int:
        return len(self._units)

    def fill(self, unit: int, target: Float[np.ndarray, "point channel"]) -> Place:
        """Read one patch into ``target``, values in [0, 1] by its scan's window. What a patch has beyond its scan gets
        the value of the scan's nearest point, and no weight. Of one that cannot be read, ``target`` is left alone."""
        scan = self._units.scan_of(unit)
        grid: PatchGrid = self._grid(scan)
        number = unit - self._units.firsts[scan]
        inside = grid.inside(grid.corner(number))
        key = self._keys[scan]
        try:
            meta, region = self._meta(scan), self._reader.region(SampleId(0, scan), inside)
        except FormatVersionError:
            raise  # caused by the version, not by this scan: quarantining would hide it
        except ScanError as error:
            return LostPatch(key, error.what, scan)
        except IntegrityError:
            return LostPatch(key, DAMAGED_SAMPLE, scan)
        if region.shape[0] != target.shape[1]:
            return LostPatch(key, WRONG_SHAPE, scan)
        _fill(target, region, meta, self._grids.size)
        points = int(np.prod(region.shape[1:]))
        return Described(key, meta, PatchPlace(scan, number, points, grid.shape, len(grid)))

    def weights(self, units: range) -> Float[np.ndarray, "unit point"] | None:
        """1 for the points that lie in the scan, 0 for those beyond it; None where no patch has any."""
        found = [self._grid(self._units.scan_of(unit)).weights for unit in units]
        if all(weights is None for weights in found):
            return None
        every = np.ones(self._grids.size, np.float32)
        return np.stack([every if weights is None else weights for weights in found]).reshape(len(units), -1)


def _fill(
    target: Float[np.ndarray, "point channel"], region: np.ndarray, meta: dict[str, Any], size: tuple[int, ...]
) -> None:
    """The region's values, (channel, *spatial) in its stored type, as the points of a patch."""
    values = target.T.reshape((region.shape[0], *size), copy=False)
    low, high = meta["window"]
    if region.shape[1:] == size:
        Window(low, high).normalise(region, values)
        return
    beyond = [(0, 0), *((0, n - there) for n, there in zip(size, region.shape[1:], strict=True))]
    values[...] = np.pad(Window(low, high).normalise(region), beyond, mode="edge")
