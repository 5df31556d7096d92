"""From a scan as read to a sample of the declared shape, or of its own, and to the split it belongs to.

    volume = windowed(scan, data)                     finite, the declared channels, an intensity window
    for piece in pieces(volume, data):                slices, or slabs of them, where the run file asks for these
        sample = canonical(piece.scan, data)          resampled; calls windowed() itself if that was not done

``split_of`` takes the key of what stays together: a patient, or a *whole* scan with all slices of its volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from medfuncta_dist.config.section import Split
from medfuncta_dist.config.sections.data_section import Data, Slabs, Slices
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.intensity import choose_window, intensity_of
from medfuncta_dist.scans.resample import Grid, cast, nearest, resample, spaced_grid, target_grid, whole_grid
from medfuncta_dist.scans.scan import Scan

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the grey of a colour image (ITU-R BT.601, as Pillow's mode L)."""

FOREGROUND = 0.1
"""Share of the intensity window above which a value counts as body, not background (see ``Slices``)."""

GAP: Split = "gap"


def windowed(scan: Scan, data: Data) -> Scan:
    """The scan with finite values, ``data.channels`` channels and a window; a scan that has a window is returned as is.

    Raises ScanError.
    """
    if scan.window is not None:
        return scan
    scan = prepared(scan, data)
    return replace(scan, window=choose_window(scan.array, intensity_of(scan, data)))


def prepared(scan: Scan, data: Data) -> Scan:
    """The scan with finite values and ``data.channels`` channels. Raises ScanError."""
    return replace(scan, array=_with_channels(_finite(scan.array, data.non_finite), data.channels))


def canonical(scan: Scan, data: Data) -> Scan:
    """The scan on a grid of ``data.shape``: array (channel, *data.shape) in its stored type, with window. With
    ``data.patches``, on its own grid, or on that of ``data.spacing`` over all of it.

    Spacing and affine follow, so world coordinates stay true. Raises ScanError.
    """
    scan = windowed(_without_flat_axes(scan, len(data.shape)), data)
    assert scan.window is not None
    if data.patches is not None and data.spacing is None:
        return replace(scan, array=np.ascontiguousarray(scan.array))
    grid = _grid(scan, data)
    return replace(
        scan,
        array=np.ascontiguousarray(resample(scan.array, grid, outside=scan.window.low)),
        spacing=grid.spacing(scan.spacing),
        affine=None if scan.affine is None else grid.affine(scan.affine),
        mask=None if scan.mask is None else nearest(scan.mask, grid),
    )


def _grid(scan: Scan, data: Data) -> Grid:
    if data.spacing is not None and data.patches is not None:
        return whole_grid(scan.shape, scan.spacing, data.spacing, scan.array.shape[0])
    if data.spacing is not None:
        return spaced_grid(scan.shape, scan.spacing, data.shape, data.spacing)
    return target_grid(scan.shape, scan.spacing, data.shape, data.aspect)


def _finite(array: np.ndarray, policy: str) -> np.ndarray:
    """The array; where the policy is ``background``, its values that are not finite are its smallest finite one."""
    finite = np.isfinite(array)
    if finite.all():
        return array
    if policy == "refuse":
        raise ScanError("some values are not finite (data.non_finite: background takes them for background)")
    if not finite.any():
        raise ScanError("no value is finite")
    return np.where(finite, array, array.min(where=finite, initial=np.inf)).astype(array.dtype)


def _with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    found = array.shape[0]
    if found == channels:
        return array
    if (found, channels) == (3, 1):
        return cast(np.tensordot(LUMA, array, axes=1)[None], array.dtype)
    raise ScanError(f"expected {channels} channels, found {found}")


def _without_flat_axes(scan: Scan, axes: int) -> Scan:
    """Drop trailing axes of length 1 (a single slice stored as a volume) beyond ``axes``."""
    while len(scan.shape) > axes and scan.shape[-1] == 1:
        mask = None if scan.mask is None else scan.mask[..., 0]
        scan = replace(scan, array=scan.array[..., 0], spacing=scan.spacing[:-1], mask=mask)
    if len(scan.shape) != axes:
        raise ScanError(f"expected {axes} axes, found {len(scan.shape)}")
    return scan


class Piece(NamedTuple):
    """A part of a volume that is packed as a scan: ``slices`` slices from number ``first`` along the axis that is cut;
    ``item``: its ordinal in the volume."""

    item: str
    first: int
    slices: int
    scan: Scan


def pieces(volume: Scan, data: Data) -> Iterator[Piece]:
    """The slices that ``data.slices`` asks for, or else the slabs of ``data.slabs``. Raises ScanError where ``volume``,
    which comes from ``windowed``, is none."""
    if data.slices is not None:
        yield from (Piece(f"slice/{index}", index, 1, scan) for index, scan in slices(volume, data.slices))
    elif data.slabs is not None:
        yield from _slabs(volume, data.slabs)


def _slabs(volume: Scan, rule: Slabs) -> Iterator[Piece]:
    """Slabs along the third axis, each as a volume; those between held-out and training slices lose the gap's."""
    if len(volume.shape) != 3:
        raise ScanError(f"slabs need a volume of 3 axes, found {len(volume.shape)}")
    for start in range(0, volume.shape[2], rule.size):
        numbers = range(start, min(start + rule.size, volume.shape[2]))
        kept = [index for index in numbers if _by_slab(index, rule) != GAP]
        if kept:  # they lie together: gaps are at the ends
            part = slice(kept[0], kept[-1] + 1)
            yield Piece(f"slab/{start // rule.size}", kept[0], len(kept), _slab(volume, part))


def _slab(volume: Scan, part: slice) -> Scan:
    affine = volume.affine
    if affine is not None:
        affine = affine.copy()
        affine[:, 3] += part.start * affine[:, 2]
    mask = None if volume.mask is None else volume.mask[:, :, part]
    return replace(volume, array=volume.array[..., part], affine=affine, mask=mask)


def slices(volume: Scan, rule: Slices) -> Iterator[tuple[int, Scan]]:
    """Slices with enough foreground, as (index along the axis, 2D scan), not resampled; they keep the volume's window.

    A slice's affine maps (i, j, 0). ``volume`` comes from ``windowed``. Raises ScanError where it is not a volume.
    """
    assert volume.window is not None, "windowed() comes first: a slice must not choose its own window"
    if len(volume.shape) != 3:
        raise ScanError(f"slices need a volume of 3 axes, found {len(volume.shape)}")
    level = volume.window.low + FOREGROUND * (volume.window.high - volume.window.low)
    for index in range(volume.shape[rule.axis]):
        array = np.take(volume.array, index, axis=rule.axis + 1)
        if float((array > level).mean()) >= rule.min_foreground:
            yield index, _slice(volume, array, rule.axis, index)


def _slice(volume: Scan, array: np.ndarray, axis: int, index: int) -> Scan:
    spacing = tuple(s for a, s in enumerate(volume.spacing) if a != axis)
    mask = None if volume.mask is None else np.take(volume.mask, index, axis=axis)
    affine = _slice_affine(volume.affine, axis, index)
    return replace(volume, array=array, spacing=spacing, affine=affine, slice_index=index, mask=mask)


def _slice_affine(affine: np.ndarray | None, axis: int, index: int) -> np.ndarray | None:
    """The sliced axis becomes the third, and its origin moves to the slice."""
    if affine is None:
        return None
    order = [a for a in range(3) if a != axis] + [axis, 3]
    moved = affine[:, order]
    moved[:, 3] += index * affine[:, axis]
    return moved


def split_of(key: str, index: int | None, given: str | None, data: Data) -> Split:
    """The split of one scan or slice: the one that its source gives, else by slab, else drawn by key.

    ``key`` (hex) is the patient's, or the whole scan's where that stays by itself; ``index`` a slice's along its axis,
    or that of the first one of a slab.
    A pure function: new scans never move old ones to another split.
    """
    if given is not None:
        return given
    if data.slabs is not None and index is not None:
        return _by_slab(index, data.slabs)
    return _by_key(key, data.fractions)


def _by_slab(index: int, slabs: Slabs) -> Split:
    """Slices are counted in slabs of ``size``; the last of every ``period`` is held out, for each split in turn."""
    cycle = slabs.size * slabs.period
    held_out = cycle - slabs.size
    position = index % cycle
    if position >= held_out:
        return slabs.splits[index // cycle % len(slabs.splits)]
    before_one = held_out - position <= slabs.gap
    after_one = index >= cycle and position < slabs.gap
    return GAP if before_one or after_one else "train"


def _by_key(key: str, fractions: dict[Split, float]) -> Split:
    """Keys are uniform: their first 64 bits are a random draw. Splits are sorted by name, not by the file's order."""
    draw = int(key[:16], 16) / 16**16
    names = sorted(fractions)
    bounds = np.cumsum([fractions[name] for name in names])
    return names[min(int(np.searchsorted(bounds, draw, side="right")), len(names) - 1)]
