"""What a fingerprint keeps of one scan: geometry, type and intensities. Pure; nothing in it can name a patient."""

from __future__ import annotations

from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from medfuncta_dist.scans.scan import Scan

PERCENTILES = (0.5, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.5)
LARGEST = 2**22
"""Values of a scan that its percentiles are taken from; of a larger one, that many are drawn."""
POOLED = 2048
"""Values of a scan that represent it among all: each scan counts the same, whatever its size."""
STRAIGHT = np.cos(np.deg2rad(5))
"""Axes that are closer to those of the world than 5 degrees are not called oblique."""
PLANES = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}


@dataclass(frozen=True)
class ScanFacts:
    """``percentiles`` are those of ``PERCENTILES``; ``values`` at most ``POOLED`` drawn ones (float32).

    background: share of the values that are the smallest one.
    hounsfield: a CT whose file says that its values are in Hounsfield units.
    orientation: as in ``orientation_of``.
    series: rank of the DICOM series that it is of, or ""; it is only counted.
    """

    modality: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    dtype: str
    orientation: str
    percentiles: tuple[float, ...]
    background: float
    hounsfield: bool
    finite: bool
    values: np.ndarray = field(repr=False)
    series: str = field(default="", repr=False)


def facts_of(scan: Scan, seed: int, series: str = "") -> ScanFacts | None:
    """The facts of a scan as read; None where no value is finite. ``seed`` decides what is drawn: equal scans under
    equal names have equal facts."""
    values, finite = _finite(scan.array.reshape(-1))
    if not values.size:
        return None
    draw = np.random.default_rng(seed)
    values = _drawn(values, LARGEST, draw)
    return ScanFacts(
        scan.modality,
        scan.shape,
        tuple(float(s) for s in scan.spacing),
        scan.channels,
        scan.array.dtype.name,
        orientation_of(scan),
        tuple(float(p) for p in np.percentile(values, PERCENTILES)),
        float((values == values.min()).mean()),
        scan.modality == "CT" and not scan.unscaled and scan.array.dtype.itemsize > 1,
        finite,
        _drawn(values, POOLED, draw).astype(np.float32),
        series,
    )


def orientation_of(scan: Scan) -> str:
    """Of a volume its axes (``RAS``), of an image its plane; ``oblique`` where they are more than 5 degrees off;
    ``unknown`` where the file does not say."""
    if scan.affine is None or len(scan.shape) < 2:
        return "unknown" if len(scan.shape) > 1 else "signal"
    directions = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    axes = nib.orientations.aff2axcodes(scan.affine)  # type: ignore[no-untyped-call]
    oblique = " oblique" if np.abs(directions).max(axis=0).min() < STRAIGHT else ""
    if None in axes:
        return "unknown"
    return (PLANES[axes[2]] if len(scan.shape) == 2 else "".join(axes)) + oblique


def _finite(values: np.ndarray) -> tuple[np.ndarray, bool]:
    finite = np.isfinite(values)
    return (values, True) if finite.all() else (values[finite], False)


def _drawn(values: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    return values if values.size <= count else values[draw.integers(0, values.size, count)]
