"""DICOM segmentations: which images they are of, and their classes on the grid of one of these, as it was read.

A segmentation has a frame per segment and slice, usually none where a segment is not. Each frame says where it lies; it
must lie on the image's own grid, whatever the order of either. The class of a point is the number of its segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float, Integer, UInt8
from pydicom.uid import ExplicitVRBigEndian

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.paired_mask import SAME_PLACE
from medfuncta_dist.scans.readers.dicom.decoder import PIXELS
from medfuncta_dist.scans.readers.dicom.dicom_reader import GEOMETRY, ImageFile
from medfuncta_dist.scans.readers.dicom.file import NOT_DICOM, opened, read_dataset
from medfuncta_dist.scans.readers.dicom.geometry import affine_of, frame_headers
from medfuncta_dist.scans.readers.dicom.pixels import check_syntax
from medfuncta_dist.scans.readers.reader import check_inflation, check_size, refusing
from medfuncta_dist.scans.scan import Scan

STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of segmentations. (Label maps and surfaces have others, and are not read.)"""
DAMAGED = "the DICOM segmentation is damaged"
HALF = 0.5
"""Of the largest value: a probability or a share of a point from which on it belongs to the segment."""
LARGEST_CLASS = 255
Voxel = Integer[np.ndarray, " 3"]


@dataclass(frozen=True)
class References:
    """Of which images a segmentation is. All of it identifies a patient: it must not leave the task."""

    series: frozenset[str] = field(repr=False)
    """SeriesInstanceUID."""
    instances: frozenset[str] = field(repr=False)
    """SOPInstanceUID of the images, where it names them."""
    derived: frozenset[str] = field(repr=False)
    """Those of them from which its frames were made, where it says so."""
    frame_of_reference: str = field(repr=False)
    """The space that positions are in; "" where the file does not say."""


@dataclass(frozen=True)
class _Place:
    """Where a frame lies on an image's grid: its first pixel, the step from row to row, that from column to column."""

    first: Voxel
    down: Voxel
    along: Voxel


def references_of(dataset: pydicom.Dataset) -> References:
    """What a segmentation's header refers to."""
    series = list(dataset.get("ReferencedSeriesSequence") or ())
    named = [item for one in series for item in one.get("ReferencedInstanceSequence") or ()]
    groups = [
        *(dataset.get("SharedFunctionalGroupsSequence") or ()),
        *(dataset.get("PerFrameFunctionalGroupsSequence") or ()),
    ]
    derived = [item for group in groups for item in group.get("DerivationImageSequence") or ()]
    sources = _instances(item for one in derived for item in one.get("SourceImageSequence") or ())
    return References(
        frozenset(str(one.get("SeriesInstanceUID")) for one in series if one.get("SeriesInstanceUID")),
        _instances(named) | sources,
        sources,
        str(dataset.get("FrameOfReferenceUID") or ""),
    )


def _instances(items: Iterable[pydicom.Dataset]) -> frozenset[str]:
    return frozenset(str(i.get("ReferencedSOPInstanceUID")) for i in items if i.get("ReferencedSOPInstanceUID"))


def segmentation_on(path: Path, scan: Scan) -> UInt8[np.ndarray, "*spatial"]:
    """``Segmentation.on`` of a file, for one scan."""
    return Segmentation.read(path).on(scan)


@dataclass(frozen=True)
class Segmentation:
    """A segmentation whose header was read, for the images that it is of."""

    references: References
    _file: ImageFile = field(repr=False)
    _affines: Sequence[Float[np.ndarray, "4 4"] | None] = field(repr=False)
    _classes: Sequence[int] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Segmentation:
        """ScanError where the file is none that is read."""
        file = _read(path)
        with refusing(GEOMETRY):
            affines = [affine_of(header) for header in frame_headers(file.dataset, file.frames)]
            return cls(references_of(file.dataset), file, affines, _classes(file.dataset, file.frames))

    def on(self, scan: Scan, *, named: bool = False) -> UInt8[np.ndarray, "*spatial"]:
        """The classes at each point of an image or volume, as it was read; 0 where there is none.

        named: it names this image, so where none of its frames is at the place of a single one, nothing is segmented
        there. ScanError where segments overlap, or it does not lie on the image's grid.
        """
        if scan.affine is None:
            raise ScanError("its segmentation has a place, and it has none itself")
        flat, shape = len(scan.shape) == 2, self._file.shape
        out = np.zeros((*scan.shape, 1) if flat else scan.shape, np.uint8)
        found = 0
        for index, (affine, number) in enumerate(zip(self._affines, self._classes, strict=True)):
            with refusing(GEOMETRY):
                if affine is None:
                    raise ScanError("a DICOM segmentation with a frame that has no place")
                if flat and _height(affine, scan.affine) > SAME_PLACE:
                    continue  # it is of another image
                place = _place(affine, scan.affine, shape)
            inside = _is_inside(place, shape, out.shape)
            found += inside
            _add(out, place, inside, number, _pixels(self._file, index))
        if not found and not (flat and named):
            raise ScanError("its segmentation is at another place")
        return out[..., 0] if flat else out


def _read(path: Path) -> ImageFile:
    with refusing(NOT_DICOM):
        file = opened(path)
    with file, refusing(DAMAGED):
        dataset = read_dataset(file)
        return ImageFile(path, dataset, _check(dataset, path.stat().st_size))


def _check(dataset: pydicom.Dataset, size: int) -> int:
    """The number of frames."""
    if dataset.get("SOPClassUID") != STORAGE:
        raise ScanError("its segmentation is no DICOM segmentation of binary or fractional frames")
    kind, bits = dataset.get("SegmentationType"), dataset.get("BitsAllocated")
    syntax = dataset.file_meta.TransferSyntaxUID
    plain = bits != 1 or not (syntax.is_encapsulated or syntax == ExplicitVRBigEndian)
    if (kind, bits) not in (("BINARY", 1), ("BINARY", 8), ("FRACTIONAL", 8)) or not plain:
        raise ScanError("a DICOM segmentation of a type that is not read")
    if kind == "FRACTIONAL" and not int(dataset.get("MaximumFractionalValue") or 0) > 0:
        raise ScanError("a fractional DICOM segmentation that does not say what its largest value means")
    check_syntax(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= frames <= 8 * size:
        raise ScanError("the DICOM header declares an impossible number of frames")
    values = frames * check_size((int(dataset.Rows), int(dataset.Columns)))
    if syntax.is_encapsulated:
        check_inflation(values * bits // 8, size)
    return frames


def _classes(dataset: pydicom.Dataset, frames: int) -> list[int]:
    """The number of each frame's segment."""
    shared = list(_numbers(dataset.get("SharedFunctionalGroupsSequence") or ()))
    numbers = list(_numbers(dataset.get("PerFrameFunctionalGroupsSequence") or ())) or shared[:1] * frames
    if len(numbers) != frames:
        raise ScanError("a DICOM segmentation that does not say of which segment each frame is")
    if not all(1 <= number <= LARGEST_CLASS for number in numbers):
        raise ScanError(f"a DICOM segmentation with numbers of segments that are not from 1 to {LARGEST_CLASS}")
    return numbers


def _numbers(groups: Sequence[pydicom.Dataset]) -> Iterator[int]:
    for group in groups:
        for item in (group.get("SegmentIdentificationSequence") or ())[:1]:
            yield int(item.ReferencedSegmentNumber)


def _pixels(file: ImageFile, index: int) -> np.ndarray:
    """(row, column): where the frame's segment is."""
    with refusing(PIXELS):
        values = _bits(file, index) if file.dataset.BitsAllocated == 1 else file.decoded(index)
        if file.dataset.SegmentationType == "BINARY":
            return np.asarray(values != 0)
        return np.asarray(values >= HALF * int(file.dataset.MaximumFractionalValue))


def _bits(file: ImageFile, index: int) -> np.ndarray:
    """A frame of one bit per pixel, the lowest bit of a byte first. It may begin within a byte (PS3.5, 8.1.1); pydicom
    does not read such a frame by itself."""
    size = file.shape[0] * file.shape[1]
    begin, end = index * size, (index + 1) * size
    data = np.frombuffer(file.dataset.PixelData[begin // 8 : -(-end // 8)], np.uint8)
    first = begin % 8
    return np.unpackbits(data, bitorder="little")[first : first + size].reshape(file.shape)


def _height(frame: Float[np.ndarray, "4 4"], image: Float[np.ndarray, "4 4"]) -> float:
    """mm between the planes of a frame and a single image."""
    normal = np.cross(image[:3, 0], image[:3, 1])
    return float(abs((frame[:3, 3] - image[:3, 3]) @ normal) / np.linalg.norm(normal))


def _place(frame: Float[np.ndarray, "4 4"], image: Float[np.ndarray, "4 4"], shape: tuple[int, int]) -> _Place:
    """Both map (i, j, k, 1) → RAS mm; ``shape`` is the frame's. ScanError where its pixels are not those of the image's
    grid."""
    nearest = np.rint(np.linalg.inv(image) @ frame)
    steps = np.abs(nearest[:3, :2])
    one_to_one = (steps.sum(axis=0) == 1).all() and (steps.sum(axis=1) <= 1).all()
    corners = np.array([[0, 0, 0, 1], [shape[0] - 1, 0, 0, 1], [0, shape[1] - 1, 0, 1]]).T
    nearest[:, 2] = 0
    away = np.linalg.norm(((image @ nearest - frame) @ corners)[:3], axis=0).max()
    if not one_to_one or away > SAME_PLACE:
        raise ScanError("its segmentation has another grid")
    first, down, along = (nearest[:3, column].astype(np.int64) for column in (3, 0, 1))
    return _Place(first, down, along)


def _is_inside(place: _Place, frame: tuple[int, int], image: Sequence[int]) -> bool:
    last = place.first + (frame[0] - 1) * place.down + (frame[1] - 1) * place.along
    corners = np.array([place.first, last])
    return bool((corners >= 0).all() and (corners < np.array(image)).all())


def _add(out: np.ndarray, place: _Place, inside: bool, number: int, pixels: np.ndarray) -> None:
    if not pixels.any():
        return
    if not inside:
        raise ScanError("its segmentation goes beyond it")
    rows, columns = np.nonzero(pixels)
    at = tuple((place.first + rows[:, None] * place.down + columns[:, None] * place.along).T)
    if (there := out[at]).any() and (there[there != 0] != number).any():
        raise ScanError("its segmentation has segments that overlap")
    out[at] = number
