"""The type that every reader returns: a scan's values, with their position in world coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from medfuncta_dist.errors import ScanError

MODALITY_WORDS: Final = {
    "MR": "magnetic resonance",
    "CT": "computed tomography",
    "XR": "X-ray",
    "US": "ultrasound",
    "PX": "pictures",
    "ECG": "electrocardiograms",
    "OT": "modality unknown",
}
"""What people call them."""
MODALITIES: Final = tuple(MODALITY_WORDS)
"""Magnetic resonance, computed tomography, X-ray, ultrasound, picture (of unknown origin), electrocardiogram, other."""

MAX_VALUES: Final = 2**29
"""Values of one scan: a whole-body CT of 512 x 512 x 2048. A header that declares more is damaged or malicious."""
PIECE_VALUES: Final = 2**24
STORED_TYPES: Final = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
"""Element types of a scan in a shard. ``stored`` narrows wider ones: no scanner measures more than 24 bits."""


@dataclass(frozen=True)
class Window:
    """The intensities that become 0 and 1. A constant scan has ``low == high``: it becomes 0."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high - self.low) and self.low <= self.high):
            raise ScanError("the intensity window is not a finite interval")

    def normalise(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Values of any shape in scan units -> float32 in [0, 1], clipped; in ``out``, where it is given."""
        if out is None:
            out = np.empty(array.shape, np.float32)
        width = self.high - self.low
        if width == 0:
            out[...] = 0
            return out
        for part, into in zip(_pieces(array), _pieces(out), strict=True):
            # Computed in float64: 32-bit integers with a large offset would lose their low bits in float32.
            values = part.astype(np.float64)
            values -= self.low
            values /= width
            into[...] = values.clip(0, 1, out=values)
        return out

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape in [0, 1] -> float32 in scan units; the inverse of ``normalise`` inside the window."""
        return (values.astype(np.float64) * (self.high - self.low) + self.low).astype(np.float32)


def _pieces(array: np.ndarray) -> list[np.ndarray]:
    """Views of an array, of a size that may be in memory several times."""
    if array.size <= PIECE_VALUES:
        return [array]
    return np.array_split(array, -(-array.size // PIECE_VALUES), axis=int(np.argmax(array.shape)))


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan. Nothing in it can name a patient.

    array: (channel, *spatial), one of ``STORED_TYPES``. Volumes are in RAS+ order; images are (row, column).
    spacing: distance of neighbouring values along each spatial axis, in mm (of a signal: s) where the file says so,
        else 1.
    affine: (4, 4) float64, voxel (i, j, k, 1) -> world RAS mm; None where the file does not say. A 2D scan's maps
        (i, j, 0, 1), and its third column leads to the neighbouring slice.
    modality: one of ``MODALITIES``.
    window: None until the canonical transform.
    labels: class numbers, where the file has them.
    targets: measurements in their place, which are no classes.
    slice_index: for a slice, its index along the sliced axis of the volume as read (RAS+, before resampling).
    unscaled: a CT whose values are not in Hounsfield units, or not known to be.
    mask: uint8 (*spatial), the class of each point, 0 for none; where a segmentation is paired with the scan.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray | None
    modality: str
    window: Window | None = None
    labels: tuple[int, ...] = ()
    slice_index: int | None = None
    unscaled: bool = False
    mask: np.ndarray | None = None
    targets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert self.array.dtype.name in STORED_TYPES, self.array.dtype
        assert self.array.dtype.isnative
        assert self.modality in MODALITIES
        if 0 in self.array.shape or not 1 <= self.array.ndim - 1 <= 3:
            raise ScanError(f"expected 1 to 3 axes that are not empty, found {self.array.ndim - 1}")
        if len(self.spacing) != self.array.ndim - 1 or not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise ScanError("the spacing is not a positive number for each axis")
        if self.affine is not None:
            _check_affine(self.affine)
        assert self.mask is None or (self.mask.shape == self.shape and self.mask.dtype == np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.array.shape[1:]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])


def _check_affine(affine: np.ndarray) -> None:
    assert affine.shape == (4, 4)
    assert affine.dtype == np.float64
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ScanError("the affine is not invertible")


def stored(array: np.ndarray) -> np.ndarray:
    """The array in a type of ``STORED_TYPES``, native byte order; integers never change their value.

    Raises ScanError for anything that is not a number, and for 64-bit integers beyond the 32-bit range.
    """
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8)
    if kind == "f":
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused with all infinities
            return array.astype(np.float32, copy=False)
    if kind not in "iu":
        raise ScanError("the values are not integers or real numbers")
    if array.dtype.itemsize == 8:
        return _narrowed(array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _narrowed(array: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise ScanError("64-bit integers beyond the 32-bit range")
    return array.astype(np.int32)
