"""Where a DICOM frame is: spacing, affine, and whether a file's frames form a stack (``stacks.py``). Pure.

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
from medfuncta_dist.scans.readers.dicom.stacks import Image, affine_with, assemble, has_geometry

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


class Header(Protocol):
    """The elements of one frame."""

    def get(self, name: str, /) -> Any:
        """The element's value, or None."""
        ...


def frame_headers(dataset: pydicom.Dataset, frames: int) -> list[Header]:
    """The header of each frame: its own functional groups, else those that all share, else the data set's elements."""
    shared, own = _items(dataset, "SharedFunctionalGroupsSequence"), _items(dataset, "PerFrameFunctionalGroupsSequence")
    if not shared and not own and (by_slices := _nuclear(dataset, frames)) is not None:
        return by_slices
    if not shared and not own and frames == 1:
        return [dataset]
    if own and len(own) != frames:
        raise ScanError("the DICOM file has functional groups for another number of frames than it has")
    common = {name: dataset.get(name) for name in (*GROUPS, *PLAIN)} | _grouped(shared[:1])
    if frames > 1 and not _grouped(shared[:1]).get("ImagePositionPatient"):
        common["ImagePositionPatient"] = None  # one position for many frames: that of the first, or of none
    return [common | _grouped([groups]) for groups in own] or [common] * frames


def _nuclear(dataset: pydicom.Dataset, frames: int) -> list[Header] | None:
    """The headers of reconstructed slices of nuclear medicine (DICOM PS3.3 C.8.4.15); None of any other file.

    Where the first slice lies is said by the detector. SliceVector numbers the slices of the frames; they are stacked
    along the normal, or against it where SpacingBetweenSlices is negative.
    """
    detectors = _items(dataset, "DetectorInformationSequence")
    placed = [item for item in detectors if item.get("ImagePositionPatient") and item.get("ImageOrientationPatient")]
    told = dataset.get("SliceVector")
    numbers = [int(number) for number in np.atleast_1d(told)] if told else [1] * (frames == 1)
    step = float(dataset.get("SpacingBetweenSlices") or 0)
    names = ("ImagePositionPatient", "ImageOrientationPatient")
    if len({str([item.get(name) for name in names]) for item in placed}) != 1 or len(numbers) != frames:
        return None
    position, orientation = (np.array(placed[0].get(name), np.float64) for name in names)
    normal = np.cross(orientation[:3], orientation[3:])
    if (frames > 1 and step == 0) or not normal.any():
        return None
    common = {name: dataset.get(name) for name in (*GROUPS, *PLAIN)} | {"ImageOrientationPatient": orientation.tolist()}
    away = normal / np.linalg.norm(normal) * step
    return [common | {"ImagePositionPatient": (position + away * (number - 1)).tolist()} for number in numbers]


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
    image = image_of(header, None)
    if not has_geometry(image):
        return None  # anonymisers may leave zeros: no affine is better than a wrong one
    thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
    return affine_with(image, abs(thickness))


@dataclass(frozen=True)
class FrameStack:
    """The frames of a file in the order of their positions along the normal, and (row, column, slice, 1) -> RAS."""

    order: tuple[int, ...]
    affine: np.ndarray


def stack_of(headers: Sequence[Header]) -> FrameStack | None:
    """The regular stack that all frames form; None if they form none, or several."""
    if len(headers) < 2:
        return None
    stacks = assemble(image_of(header, index) for index, header in enumerate(headers)).stacks
    if len(stacks) != 1 or stacks[0].problem is not None or len(stacks[0].images) != len(headers):
        return None
    return FrameStack(tuple(image.place for image in stacks[0].images), stacks[0].affine)


def image_of(header: Header, place: Any) -> Image:
    """Where a frame lies; its size, marks and kind are left out."""
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    return Image(
        place,
        "",
        (),
        spacing_of(header),
        tuple(float(value) for value in orientation) if orientation else None,
        tuple(float(value) for value in position) if position else None,
    )


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
