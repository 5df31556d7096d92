"""What a scan looks like, in 64 small numbers: equal for copies, close for copies that were stored, scaled or windowed
again, and apart for most other scans.

The numbers are the lowest frequencies of the scan's cosine transform, but for the mean: each is weighted by its
frequency (pictures have less of the higher ones), and all together have the same length for every scan. So brightness
and contrast do not count. A shift of more than about one hundredth of the field of view does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product

import numpy as np

NUMBERS = 64
FREQUENCIES = {1: NUMBERS + 1, 2: 10, 3: 6}
"""Along each axis of a scan of 1, 2 or 3 axes: enough to choose the 64 lowest from."""
CHANNEL_FREQUENCIES = 4
WEIGHTS = {1: 0.5, 2: 1.0, 3: 1.0}
"""Powers of the frequency: in signals, which have steep peaks, the first power would make noise count most."""
MOST_POINTS = 1024
"""Of a longer axis, means are taken first."""
LARGEST = 127
FLAT = 1e-6
"""Root of the sum of squares, with values in [0, 1]: below it a scan looks like nothing."""


def look_of(values: np.ndarray) -> np.ndarray:
    """(64,) int8 of a scan's values, float32 (channel, *spatial) in [0, 1]. Zeros for a scan that is constant.

    Channels are an axis like the others, so colours and leads count. A scan of few points has zeros at the end.
    """
    found = values - values.flat[0]  # exactly zero for a constant scan
    return _of_lowest(_lowest(found, values.shape, range(values.ndim)), values.shape)


def look_of_pieces(pieces: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The same, up to rounding, of a scan of this shape in pieces along its first spatial axis, (channel, some, ...):
    no more of a large one needs to be in memory as float32."""
    first, found = None, []
    for piece in pieces:
        first = piece.flat[0] if first is None else first
        found.append(_lowest(piece - first, shape, range(2, len(shape))))
    return _of_lowest(_lowest(np.concatenate(found, axis=1), shape, (1, 0)), shape)


def _lowest(found: np.ndarray, shape: tuple[int, ...], axes: Iterable[int]) -> np.ndarray:
    """The transform along these axes of a scan of this shape, at its lowest frequencies."""
    for axis in axes:
        count = _along(axis, shape)
        found = _fewer(found, axis, MOST_POINTS)
        found = np.moveaxis(np.tensordot(found, _cosines(found.shape[axis], count), axes=(axis, 1)), -1, axis)
    return found


def _of_lowest(found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    chosen, weights = _frequencies(shape)
    numbers = found[chosen].astype(np.float64) * weights
    length = float(np.sqrt((numbers**2).sum()))
    look = np.zeros(NUMBERS, np.int8)
    if length > FLAT:
        look[: len(numbers)] = np.rint(numbers * (LARGEST / np.abs(numbers).max())).astype(np.int8)
    return look


def _along(axis: int, shape: tuple[int, ...]) -> int:
    """How many frequencies of an axis are computed: no more than it has points."""
    return min(shape[axis], FREQUENCIES[len(shape) - 1] if axis else CHANNEL_FREQUENCIES)


def _fewer(values: np.ndarray, axis: int, most: int) -> np.ndarray:
    """Means of neighbouring values along an axis that has more than so many."""
    points = values.shape[axis]
    if points <= most:
        return values
    starts = np.arange(most) * points // most
    shape = tuple(-1 if a == axis else 1 for a in range(values.ndim))
    means: np.ndarray = np.add.reduceat(values, starts, axis=axis)
    means /= np.diff(starts, append=points).astype(np.float32).reshape(shape)
    return means


@lru_cache(32)
def _cosines(points: int, frequencies: int) -> np.ndarray:
    """(frequency, point): the rows of a cosine transform (DCT-II), divided by the number of points."""
    at = ((np.arange(points) + 0.5) * (np.pi / points)).astype(np.float32)
    rows = np.arange(frequencies, dtype=np.float32)[:, None] * at
    np.cos(rows, out=rows)
    rows[1:] *= np.float32(np.sqrt(2))
    rows /= np.float32(points)
    return rows


@lru_cache(32)
def _frequencies(shape: tuple[int, ...]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The 64 lowest frequencies but the mean, as an index of the transform, and their weights."""
    every = product(*(range(_along(axis, shape)) for axis in range(len(shape))))
    lowest = sorted(every, key=lambda f: (sum(k * k for k in f), f))[1 : NUMBERS + 1]
    index = np.array(lowest, int).reshape(len(lowest), len(shape))
    return tuple(index.T), (index**2).sum(axis=1) ** (WEIGHTS[len(shape) - 1] / 2)
