"""From one grid of voxels to another: the positions of its points (pure), and the values there.

Align-corners convention, as the field's coordinates (both ends included): the field of view reaches from the centre of
the first voxel to the centre of the last, and stretching n voxels to m scales the spacing by (n - 1) / (m - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan import MAX_VALUES

SLAB_VALUES = 2**24
GAUSSIAN_REACH = 4
"""Sigmas after which SciPy cuts a Gaussian off."""
TOLERANCE = 1e-6
"""In voxels: how far rounding may move a point of the far edge out of the field of view."""


@dataclass(frozen=True)
class Grid:
    """Points of a new grid in voxel coordinates of the old one: ``old = offset + scale * new`` along each axis.

    ``edges``: points outside of the old one's field of view have the values of its edge; else they are background.
    """

    shape: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    edges: bool = False

    def spacing(self, spacing: Sequence[float]) -> tuple[float, ...]:
        """Spacing of the new grid, given the old one's."""
        return tuple(s * r for s, r in zip(spacing, self.scale, strict=True))

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """Voxel -> world of the new grid, (4, 4), given the old one's: the world stays where it was."""
        to_old = np.eye(4)
        for axis, (scale, offset) in enumerate(zip(self.scale, self.offset, strict=True)):
            to_old[axis, axis], to_old[axis, 3] = scale, offset
        return affine @ to_old


def target_grid(shape: Sequence[int], spacing: Sequence[float], target: Sequence[int], aspect: str) -> Grid:
    """The grid of shape ``target`` over a scan. Both have the same number of axes.

    ``stretch`` keeps the field of view and distorts; ``pad`` and ``crop`` make voxels isotropic in the unit of
    ``spacing``, centred, ``pad`` so that all of the scan is inside and ``crop`` so that no point is outside.
    """
    if 1 in shape:
        raise ScanError("an axis of length 1 has no extent to resample")
    steps = [(n - 1) / (m - 1) for n, m in zip(shape, target, strict=True)]
    if aspect == "stretch":
        return Grid(tuple(target), tuple(steps), (0.0,) * len(steps))
    physical = [r * s for r, s in zip(steps, spacing, strict=True)]
    step = max(physical) if aspect == "pad" else min(physical)
    scale = tuple(_snapped(step / s) for s in spacing)
    offset = tuple(_centred(n, m, r) for n, m, r in zip(shape, target, scale, strict=True))
    return Grid(tuple(target), scale, offset)


def spaced_grid(shape: Sequence[int], spacing: Sequence[float], target: Sequence[int], step: Sequence[float]) -> Grid:
    """The grid of shape ``target`` with ``step`` between its points, in the unit of ``spacing``, centred on a scan:
    what does not fit is cropped, and what is missing lies outside. All have the same number of axes."""
    scale = tuple(_snapped(wanted / s) for wanted, s in zip(step, spacing, strict=True))
    if any(r > n - 1 for n, r in zip(shape, scale, strict=True)):
        raise ScanError("the scan is smaller than one step of data.spacing")
    offset = tuple(_centred(n, m, r) for n, m, r in zip(shape, target, scale, strict=True))
    return Grid(tuple(target), scale, offset)


def whole_grid(shape: Sequence[int], spacing: Sequence[float], step: Sequence[float], channels: int = 1) -> Grid:
    """The grid with ``step`` between its points, in the unit of ``spacing``, that reaches over all of a scan, centred:
    its ends lie less than half a step outside. Where a scan has that spacing, it is the scan's own grid. ScanError for
    one of more values, in all ``channels``, than a scan may have."""
    scale = tuple(_snapped(wanted / s) for wanted, s in zip(step, spacing, strict=True))
    points = tuple(math.ceil((n - 1) / r - TOLERANCE) + 1 for n, r in zip(shape, scale, strict=True))
    if (values := math.prod(points) * channels) > MAX_VALUES:
        raise ScanError(f"at data.spacing the scan would have {values} values, more than {MAX_VALUES}")
    offset = tuple(_snapped((n - 1) / 2 - r * (m - 1) / 2) for n, m, r in zip(shape, points, scale, strict=True))
    return Grid(points, scale, offset, edges=True)


def _centred(n: int, m: int, scale: float) -> float:
    """Offset that puts the centre of m points on the centre of n, or half a voxel off rather than between voxels."""
    offset = _snapped((n - 1) / 2 - scale * (m - 1) / 2)
    return float(np.floor(offset)) if scale == 1 else offset


def _snapped(x: float) -> float:
    """Rounding must not turn a copy (scale 1, whole offset) into an interpolation."""
    return float(round(x)) if abs(x - round(x)) < 1e-9 else x


def resample(array: np.ndarray, grid: Grid, outside: float) -> np.ndarray:
    """Values (channel, *spatial) on a new grid, same type; ``outside`` for points outside the scan's field of view.

    Linear interpolation, so no value leaves the scan's range; shrunk axes are smoothed first (Gaussian,
    sigma = (scale - 1) / 2 voxels, as scikit-image's resize) against aliasing. Integers are rounded, not truncated.
    """
    if all(r == 1 for r in grid.scale) and not any(grid.offset) and grid.shape == array.shape[1:]:
        return array
    if grid.edges:
        return _in_slabs(array, grid)
    values = _interpolated(array, grid)
    _fill_outside(values, array.shape[1:], grid, outside)
    return cast(values, array.dtype)


def _interpolated(array: np.ndarray, grid: Grid) -> np.ndarray:
    # 8- and 16-bit integers are exact in float32; 32-bit ones need float64.
    working = np.float64 if array.dtype.kind in "iu" and array.dtype.itemsize == 4 else np.float32
    return np.stack([_interpolate(channel.astype(working), grid) for channel in array])


def _in_slabs(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Values on the new grid, some rows of its first axis at once: a scan that keeps its resolution may be large."""
    n, (scale, *others), (offset, *rest) = array.shape[1], grid.scale, grid.offset
    around = math.ceil(GAUSSIAN_REACH * max(0.0, (scale - 1) / 2)) + 2
    few = max(1, int(SLAB_VALUES * n / array.size / scale))
    found = np.empty((array.shape[0], *grid.shape), array.dtype)
    for start in range(0, grid.shape[0], few):
        stop = min(start + few, grid.shape[0])
        first = min(max(0, math.floor(offset + scale * start) - around), n - 1)
        last = max(min(n, math.ceil(offset + scale * (stop - 1)) + around), first + 1)
        part = Grid((stop - start, *grid.shape[1:]), (scale, *others), (offset + scale * start - first, *rest))
        found[:, start:stop] = cast(_interpolated(array[:, first:last], part), array.dtype)
    return found


def nearest(labels: np.ndarray, grid: Grid) -> np.ndarray:
    """Labels (*spatial) at the nearest points of a new grid; background, outside of the old one, is 0."""
    for axis, n in enumerate(labels.shape):
        points = grid.offset[axis] + grid.scale[axis] * np.arange(grid.shape[axis])
        taken = np.take(labels, np.floor(points + 0.5).astype(int).clip(0, n - 1), axis)
        if not grid.edges:
            np.moveaxis(taken, axis, 0)[_missing(points, n)] = 0
        labels = taken
    return labels


def _missing(points: np.ndarray, n: int) -> np.ndarray:
    """Which points along an axis lie outside of a field of view of n voxels."""
    return np.asarray((points < -TOLERANCE) | (points > n - 1 + TOLERANCE))


def _interpolate(values: np.ndarray, grid: Grid) -> np.ndarray:
    sigma = [max(0.0, (r - 1) / 2) for r in grid.scale]
    if any(sigma):
        values = ndimage.gaussian_filter(values, sigma, mode="nearest")
    moved = ndimage.affine_transform(
        values, np.array(grid.scale), grid.offset, grid.shape, order=1, mode="nearest", prefilter=False
    )
    return np.asarray(moved)


def _fill_outside(values: np.ndarray, shape: Sequence[int], grid: Grid, outside: float) -> None:
    for axis, n in enumerate(shape):
        points = grid.offset[axis] + grid.scale[axis] * np.arange(grid.shape[axis])
        np.moveaxis(values, axis + 1, 0)[_missing(points, n)] = outside


def cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats back to the stored type: integers rounded to the nearest and clipped to what the type holds."""
    if dtype.kind not in "iu":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(values), limits.min, limits.max).astype(dtype))
