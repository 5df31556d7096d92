"""Where a DICOM frame is: spacing, affine, and whether frames form a regular stack. Pure.

A *header* is what ``get(name)`` answers: a data set, or a mapping made from its functional groups, which enhanced
files have in place of the plain elements (DICOM PS3.3 C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pydicom

from medfuncta_dist.errors import ScanError

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
}
"""Elements of a frame, and the functional group that has them in an enhanced file."""
PLAIN = (*SPACINGS[1:], "PixelAspectRatio")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN = 0.01
"""Share of the distance between two frames by which a frame of a regular stack may be off its place. Files give
positions in decimals."""
SAME = 1e-4
"""Directions and spacings that differ by less are the same."""
LEAST_STEP = 1e-3
"""Frames of a stack are at least as far apart (mm)."""


class Header(Protocol):
    """The elements of one frame."""

    def get(self, name: str, /) -> Any:
        """The element's value, or None."""
        ...


def frame_headers(dataset: pydicom.Dataset, frames: int) -> list[Header]:
    """The header of each frame: its own functional groups, else those that all share, else the data set's elements."""
    shared, own = _items(dataset, "SharedFunctionalGroupsSequence"), _items(dataset, "PerFrameFunctionalGroupsSequence")
    if not shared and not own and frames == 1:
        return [dataset]
    if own and len(own) != frames:
        raise ScanError("the DICOM file has functional groups for another number of frames than it has")
    common = {name: dataset.get(name) for name in (*GROUPS, *PLAIN)} | _grouped(shared[:1])
    if frames > 1 and not _grouped(shared[:1]).get("ImagePositionPatient"):
        common["ImagePositionPatient"] = None  # one position for many frames: that of the first, or of none
    return [common | _grouped([groups]) for groups in own] or [common] * frames


def spacing_of(header: Header) -> tuple[float, float] | None:
    """(between rows, between columns) in mm; None where the file does not say, or says zero or less."""
    for name in SPACINGS:
        if header.get(name):
            between_rows, between_columns = (float(value) for value in header.get(name))
            if 0 < between_rows < np.inf and 0 < between_columns < np.inf:
                return between_rows, between_columns
    return None


def pixel_size(header: Header) -> tuple[float, float]:
    """The spacing, else the shape of a pixel (PixelAspectRatio) with columns at distance 1, else 1."""
    if spacing := spacing_of(header):
        return spacing
    if header.get("PixelAspectRatio"):
        vertical, horizontal = (float(value) for value in header.get("PixelAspectRatio"))
        if 0 < vertical < np.inf and 0 < horizontal < np.inf:
            return vertical / horizontal, 1.0
    return 1.0, 1.0


def affine_of(header: Header) -> np.ndarray | None:
    """(row, column, slice, 1) -> RAS mm (DICOM PS3.3 C.7.6.2.1.1, in LPS); None unless the file says all of it."""
    plane = _plane(header)
    if plane is None:
        return None
    thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
    return _affine(plane, plane.normal * abs(thickness))


@dataclass(frozen=True)
class Stack:
    """A regular stack: frames in the order of their positions along the normal, and (row, column, slice, 1) -> RAS."""

    order: tuple[int, ...]
    affine: np.ndarray


def stack_of(headers: Sequence[Header]) -> Stack | None:
    """The stack that the frames form: one orientation and spacing, at equal steps along the normal; None if none."""
    planes = [plane for header in headers if (plane := _plane(header)) is not None]
    if len(planes) != len(headers) or len(planes) < 2 or not all(_parallel(planes[0], plane) for plane in planes):
        return None
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ planes[0].normal, kind="stable")
    positions = positions[order]
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    even = positions[0] + np.arange(len(planes))[:, None] * step
    distance = float(np.linalg.norm(step))
    tilted = np.linalg.norm(step - planes[0].normal * distance) > UNEVEN * distance
    if distance < LEAST_STEP or tilted or np.linalg.norm(positions - even, axis=1).max() > UNEVEN * distance:
        return None
    return Stack(tuple(int(n) for n in order), _affine(planes[order[0]], step))


@dataclass(frozen=True)
class _Plane:
    """A frame in space (LPS, mm)."""

    position: np.ndarray
    along_row: np.ndarray
    down_column: np.ndarray
    spacing: tuple[float, float]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.down_column)


def _plane(header: Header) -> _Plane | None:
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    spacing = spacing_of(header)
    if not position or not orientation or spacing is None:
        return None
    along_row, down_column = np.array(orientation, np.float64).reshape(2, 3)
    if not _orthonormal(along_row, down_column):
        return None  # anonymisers may leave zeros: no affine is better than a wrong one
    return _Plane(np.array(position, np.float64), along_row, down_column, spacing)


def _affine(plane: _Plane, step: np.ndarray) -> np.ndarray:
    between_rows, between_columns = plane.spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = plane.down_column * between_rows, plane.along_row * between_columns
    affine[:3, 2], affine[:3, 3] = step, plane.position
    return LPS_TO_RAS @ affine


def _parallel(one: _Plane, other: _Plane) -> bool:
    turned = np.abs([one.along_row - other.along_row, one.down_column - other.down_column]).max()
    return bool(turned < SAME and np.allclose(one.spacing, other.spacing, rtol=SAME, atol=0))


def _orthonormal(*directions: Sequence[float] | np.ndarray) -> bool:
    matrix = np.array(directions)
    return bool(np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-3))


def _items(dataset: pydicom.Dataset, name: str) -> Sequence[pydicom.Dataset]:
    return dataset.get(name) or ()


def _grouped(groups: Sequence[pydicom.Dataset]) -> dict[str, Any]:
    """The elements that these functional groups have."""
    found = {}
    for item in groups:
        for name, group in GROUPS.items():
            for macro in _items(item, group)[:1]:
                if name in macro:
                    found[name] = macro.get(name)
    return found
