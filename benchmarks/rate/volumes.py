"""Volumes, what is fitted on and what is held out, and how a decoded volume is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from benchmarks.rate.masks import largest_component, smooth_fill

HELD_OUT = (40, 104, 160)
"""First slices of the slabs that are held out of a brain, along its second axis."""
SLICES, GAP, STRIDE = 16, 2, 8
"""Of a slab; slices between training and held-out slabs; training slabs overlap by half."""
SLABS = 14_000
"""Of a thousand brains."""
SCANS_AT_ONCE = 156
"""X-rays that are coded as one volume: four volumes are the test split."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Values in [0, 1]; outside ``mask``, where there is one, they do not count and may be replaced by anything."""

    values: Float[np.ndarray, "slice row column"]
    mask: Bool[np.ndarray, "slice row column"] | None = None


@dataclass(frozen=True, eq=False)
class DataSet:
    """Volumes to fit on and volumes that are held out.

    ``slices_are_scans``: PSNR is then that of each slice. ``amortised_over``: volumes that share what a
    decoder has beforehand.
    """

    name: str
    training: Sequence[Volume]
    held_out: Sequence[Volume]
    amortised_over: int
    slices_are_scans: bool = False

    @property
    def counted(self) -> int:
        """Held-out values that count."""
        return sum(int(v.mask.sum()) if v.mask is not None else v.values.size for v in self.held_out)


def decibel(of: DataSet, volume: Volume, decoded: np.ndarray) -> float:
    """PSNR at data range 1, values clamped, of what counts; the mean over slices that are scans."""
    squares = np.square(np.clip(decoded, 0, 1).astype(np.float64) - volume.values)
    if volume.mask is not None:
        return float(-10 * np.log10(squares[volume.mask].mean()))
    errors = squares.mean((1, 2)) if of.slices_are_scans else squares.mean()
    return float(np.mean(-10 * np.log10(errors)))


def xrays(path: Path) -> DataSet:
    """PneumoniaMNIST's training and test splits, many scans a volume."""
    with np.load(path, allow_pickle=False) as file:
        train, test = (file[f"{split}_images"] / np.float32(255) for split in ("train", "test"))
    return DataSet("X-rays, 28²", _stacks(train), _stacks(test), 100_000 // SCANS_AT_ONCE, slices_are_scans=True)


def _stacks(scans: np.ndarray) -> list[Volume]:
    return [Volume(scans[start : start + SCANS_AT_ONCE]) for start in range(0, len(scans), SCANS_AT_ONCE)]


def brain(path: Path, masked: bool) -> DataSet:
    """Slabs of a brain. ``masked``: what is outside its largest component counts nothing, and is filled smoothly."""
    raw = np.asarray(nib.load(path).dataobj, np.float32)
    values = np.moveaxis(raw / raw.max(), 1, 0)
    mask = largest_component(values) if masked else None
    held = [slice(first, first + SLICES) for first in HELD_OUT]
    training = [_slab(values, mask, part) for part in training_slabs(len(values))]
    name = "brain, 1 mm, inside a mask" if masked else "brain, 1 mm, everything"
    return DataSet(name, training, [_slab(values, mask, part) for part in held], SLABS)


def training_slabs(slices: int) -> Iterator[slice]:
    """Slabs that overlap by half, none nearer than the gap to one that is held out."""
    begin = 0
    for first in (*HELD_OUT, slices + GAP):
        starts = [*range(begin, first - GAP - SLICES + 1, STRIDE)]
        yield from (slice(start, start + SLICES) for start in starts)
        begin = first + SLICES + GAP


def _slab(values: np.ndarray, mask: np.ndarray | None, part: slice) -> Volume:
    if mask is None:
        return Volume(np.ascontiguousarray(values[part]))
    return Volume(smooth_fill(values[part], mask[part]), np.ascontiguousarray(mask[part]))


def made(masked: bool, side: int = 24) -> DataSet:
    """Smooth blobs, for a short run without data."""
    noise = np.random.default_rng(0)
    volumes = []
    for _ in range(6):
        rough = gaussian_filter(noise.standard_normal((side, side, side)), 2)
        distance = np.linalg.norm(np.indices(rough.shape) - (side - 1) / 2, axis=0)
        values = np.where(distance < side * 0.42, 0.6 + 2 * rough, 0.0).clip(0, 1).astype(np.float32)
        mask = largest_component(values) if masked else None
        volumes.append(Volume(values if mask is None else smooth_fill(values, mask), mask))
    return DataSet("made, inside a mask" if masked else "made, everything", volumes[:5], volumes[5:], 1000)
