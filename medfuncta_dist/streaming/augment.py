"""Augmentation: a training scan flipped, warped and brightened a little, differently in each epoch.

What is drawn depends on seed, epoch and the scan's key only, never on rank, worker or place in a batch, so a resumed or
resharded run sees the same values. Each operation is a single addition, product, comparison or copy, which IEEE 754
fixes to the last bit, so other machines see them too. A gamma, or a rotation by sine and cosine, would not be so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medfuncta_dist.config.sections.train_section import Augment
from medfuncta_dist.random_numbers import random_numbers

Values = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]

BLOCK = 8192
"""Points that are resampled at once: their indices and fractions fit into a core's cache, whatever the scan's size."""


def augmented(values: Values, settings: Augment, *, seed: int, epoch: int, key: str) -> Values:
    """A changed copy of a scan, float32 (channel, *spatial) in [0, 1]; ``values`` itself where nothing changes.

    In this order: flips, one affine map with its shift, gain and offset.
    """
    axes = values.ndim - 1
    # As many numbers whatever the settings say: switching one change off leaves the others as they are.
    drawn = _signed(axes + axes * axes + axes + 2, seed, epoch, key)
    flips, matrix, shift, (gain, offset) = np.split(drawn, np.cumsum([axes, axes * axes, axes]))
    values = _flipped(values, [axis for axis in settings.flip if flips[axis] < 0])
    if settings.affine or settings.shift:
        moved = np.eye(axes) + settings.affine * matrix.reshape(axes, axes)
        values = resampled(values, moved, settings.shift * shift)
    if settings.gain or settings.offset:
        values = values * np.float32(1 + settings.gain * gain) + np.float32(settings.offset * offset)
        np.clip(values, 0, 1, out=values)
    return values


def resampled(values: Values, matrix: Reals, shift: Reals) -> Values:
    """``values`` (channel, *spatial) read at ``matrix @ u + shift`` instead of at u, interpolated linearly.

    u is the place in the field of view, from -1/2 to 1/2 along each axis with both ends included. Outside the field of
    view, the value at its edge is taken: zeros would put an edge where tissue is cut off, which no scan has, and the
    network would learn it.
    """
    channels, *shape = values.shape
    flat, rows = values.reshape(channels, -1), max(1, BLOCK // math.prod(shape[1:]))
    result = np.empty(values.shape, np.float32)
    places = [np.arange(n, dtype=np.float32) / np.float32(n - 1) - np.float32(0.5) for n in shape]
    for start in range(0, shape[0], rows):
        block = result[:, start : start + rows]
        grid = np.ix_(places[0][start : start + rows], *places[1:])
        lower, fractions = _cells(grid, shape, matrix, shift)
        block[...] = _interpolated(flat, lower, fractions, _strides(shape)).reshape(block.shape)
    return np.clip(result, 0, 1, out=result)


def _signed(count: int, seed: int, epoch: int, key: str) -> Reals:
    """Uniform in [-1, 1): the upper 53 bits of each number."""
    numbers = random_numbers(count, "augment", seed, epoch, key)
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def _flipped(values: Values, axes: Sequence[int]) -> Values:
    return np.ascontiguousarray(np.flip(values, tuple(1 + axis for axis in axes))) if axes else values


def _cells(
    grid: Sequence[Values], shape: Sequence[int], matrix: Reals, shift: Reals
) -> tuple[npt.NDArray[np.intp], list[Values]]:
    """Where the points of ``grid`` are read: the flat index of the cell's lowest corner, and the fractions in it."""
    index: npt.NDArray[np.intp] = np.zeros((), np.intp)
    fractions = []
    for n, row, moved, stride in zip(shape, matrix, shift, _strides(shape), strict=True):
        place: Values = np.full((), (moved + 0.5) * (n - 1), np.float32)
        for weight, along in zip(row, grid, strict=True):
            place = place + np.float32(weight * (n - 1)) * along
        place = np.clip(place, 0, n - 1)
        lower = np.minimum(place.astype(np.intp), n - 2)  # the last point belongs to the last cell
        fractions.append((place - lower).astype(np.float32).ravel())
        index = index + lower * stride
    return index.ravel(), fractions


def _interpolated(
    flat: Values, index: npt.NDArray[np.intp], fractions: Sequence[Values], strides: Sequence[int]
) -> Values:
    """(channel, point) values within the cells at ``index``, along one axis after the other."""
    if not fractions:
        return flat.take(index, axis=1)
    lower = _interpolated(flat, index, fractions[1:], strides[1:])
    upper = _interpolated(flat, index + strides[0], fractions[1:], strides[1:])
    upper -= lower
    upper *= fractions[0]
    upper += lower
    return upper


def _strides(shape: Sequence[int]) -> list[int]:
    """How far apart neighbours along each axis are in flat memory."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
