"""DICOM segmentations on the grid of their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import ScanError
from medfuncta_dist.packing.source_reader import EncodedScan, SourceReader, UnusableScan
from medfuncta_dist.packing.sources.pack_source import Mask, Member, PackSource
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.readers.dicom.segmentation_frames import references_of, segmentation_on
from medfuncta_dist.scans.readers.dicom.series_reader import InstanceFile, series_volumes
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.sample import decode
from tests.unit.scans.archive import PYDICOM, declared, edited
from tests.unit.scans.archive import only as only_of
from tests.writers import structured, write_segmentation, write_series

SHAPE = (11, 7, 6)
"""77 pixels per frame: in a bit each, frames begin within a byte."""


def volume() -> np.ndarray:
    return np.rint(structured(SHAPE, 0) * 1000).astype(np.int16)


def classes() -> np.ndarray:
    """(row, column, slice) from 0 to 3; nothing in the first slice, one class in the last."""
    found = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    found[:, :, 0] = 0
    found[:, :, -1] = np.where(found[:, :, -1] == 3, 3, 0)
    return found


def series(folder: Path) -> tuple[list[Path], Scan]:
    """The files by slice, and their volume as it is read."""
    paths = write_series(folder / "archive", volume())
    files = [InstanceFile(path, f"{index:02}") for index, path in enumerate(paths)]
    [part] = series_volumes(files, Series())
    assert part.found is not None
    assert isinstance(part.found.scan, Scan)
    return paths, part.found.scan


def in_ras(array: np.ndarray) -> np.ndarray:
    return array.transpose(1, 0, 2)[::-1, ::-1]


@pytest.mark.parametrize("fractional", [0, 255, 100])
@pytest.mark.parametrize("every", [False, True])
def test_each_segment_is_a_class_of_the_volume(tmp_path: Path, fractional: int, every: bool) -> None:
    paths, scan = series(tmp_path)
    path = write_segmentation(tmp_path / "seg.dcm", paths, classes(), fractional=fractional, every=every)
    found = segmentation_on(path, scan)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, in_ras(classes()))
    # As the volume's own values are: the file's (row, column) at the position of its slice.
    np.testing.assert_array_equal(scan.array[0], in_ras(volume()) - 1024)


def test_half_of_the_largest_value_belongs_to_the_segment(tmp_path: Path) -> None:
    paths, scan = series(tmp_path)
    path = write_segmentation(tmp_path / "seg.dcm", paths, np.minimum(classes(), 1), fractional=200)
    dataset = pydicom.dcmread(path)
    values = np.frombuffer(dataset.PixelData, np.uint8).copy()
    for value, count in ((100, 1), (99, 0)):
        dataset.PixelData = np.where(values, value, 0).astype(np.uint8).tobytes()
        dataset.save_as(path)
        assert segmentation_on(path, scan).mean() == pytest.approx(count * 5 / 6)  # no frame of the first slice


@pytest.mark.parametrize(
    "turn",
    [
        lambda array, affine: (array[:, ::-1], affine @ flip(array, 0)),
        lambda array, affine: (array.transpose(0, 2, 1, 3), affine[:, [1, 0, 2, 3]]),
        lambda array, affine: (array.transpose(0, 3, 1, 2), affine[:, [2, 0, 1, 3]]),
    ],
)
def test_whatever_order_the_axes_of_the_image_have(
    tmp_path: Path, turn: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> None:
    paths, scan = series(tmp_path)
    path = write_segmentation(tmp_path / "seg.dcm", paths, classes())
    array, affine = turn(in_ras(classes())[None], np.array(scan.affine))
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    turned = Scan(np.ascontiguousarray(array), spacing, affine, "CT")
    np.testing.assert_array_equal(segmentation_on(path, turned), array[0])


def flip(array: np.ndarray, axis: int) -> np.ndarray:
    """Counts an axis from its other end."""
    matrix = np.eye(4)
    matrix[axis, axis], matrix[axis, 3] = -1, array.shape[axis + 1] - 1
    return matrix


def test_a_single_image_has_the_frame_at_its_place(tmp_path: Path) -> None:
    paths, _ = series(tmp_path)
    path = write_segmentation(tmp_path / "seg.dcm", paths, classes())
    for index in (1, 5):
        image = only_of(DicomReader(), paths[index])
        np.testing.assert_array_equal(segmentation_on(path, image), classes()[:, :, index])
    with pytest.raises(ScanError, match="at another place"):
        segmentation_on(path, only_of(DicomReader(), paths[0]))


def moved(path: Path, frame: int, by: list[float]) -> Path:
    dataset = pydicom.dcmread(path)
    place = dataset.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0]
    place.ImagePositionPatient = [a + b for a, b in zip(place.ImagePositionPatient, by, strict=True)]
    dataset.save_as(path)
    return path


def shared(path: Path, macro: str, **elements: object) -> Path:
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(dataset.SharedFunctionalGroupsSequence[0][macro][0], name, value)
    dataset.save_as(path)
    return path


def other_number(path: Path, number: int) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
    dataset.save_as(path)
    return path


def without(path: Path, macro: str) -> Path:
    dataset = pydicom.dcmread(path)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        delattr(groups, macro)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: moved(path, 0, [0, 0, -4]), "overlap"),
        (lambda path: moved(path, 0, [0, 0, 4]), "goes beyond it"),
        (lambda path: moved(path, 0, [0, 0, 1.5]), "another grid"),
        (lambda path: moved(path, 0, [0.2, 0, 0]), "another grid"),
        (lambda path: shared(path, "PixelMeasuresSequence", PixelSpacing=[3, 3.1]), "another grid"),
        (lambda path: shared(path, "PixelMeasuresSequence", PixelSpacing=[6, 6]), "another grid"),
        (
            lambda path: shared(path, "PlaneOrientationSequence", ImageOrientationPatient=[0.8, 0.6, 0, -0.6, 0.8, 0]),
            "another grid",
        ),
        (lambda path: without(path, "PlanePositionSequence"), "a frame that has no place"),
        (lambda path: without(path, "SegmentIdentificationSequence"), "of which segment each frame is"),
        (lambda path: other_number(path, 256), "not from 1 to 255"),
        (lambda path: edited(path, SegmentationType="LABELMAP"), "of a type that is not read"),
        (lambda path: edited(path, SegmentationType="FRACTIONAL", BitsAllocated=8), "its largest value means"),
        (lambda path: edited(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.5"), "no DICOM segmentation"),
        (lambda path: edited(path, NumberOfFrames=4), "another number of frames"),
        (lambda path: edited(path, PixelData=b"12"), "pixels are damaged"),
        (lambda path: path.with_name("none.txt"), "not a readable DICOM file"),
    ],
)
def test_what_does_not_lie_on_the_grid_is_refused(tmp_path: Path, change: Callable[[Path], Path], words: str) -> None:
    paths, scan = series(tmp_path)
    (tmp_path / "none.txt").write_text("no DICOM")
    path = change(write_segmentation(tmp_path / "seg.dcm", paths, classes()))
    with pytest.raises(ScanError, match=words):
        segmentation_on(path, scan)


def test_an_image_without_a_place_has_no_segmentation(tmp_path: Path) -> None:
    paths, scan = series(tmp_path)
    path = write_segmentation(tmp_path / "seg.dcm", paths, classes())
    with pytest.raises(ScanError, match="it has none itself"):
        segmentation_on(path, replace(scan, affine=None))


def test_it_tells_which_images_it_is_of_and_prints_none(tmp_path: Path) -> None:
    paths, _ = series(tmp_path)
    found = references_of(pydicom.dcmread(write_segmentation(tmp_path / "seg.dcm", paths, classes())))
    headers = [pydicom.dcmread(path) for path in paths]
    assert found.series == {headers[0].SeriesInstanceUID}
    assert found.instances == {header.SOPInstanceUID for header in headers}
    assert found.frame_of_reference == "1.2.3"
    assert headers[0].SeriesInstanceUID not in repr(found)
    derived = pydicom.dcmread(without(tmp_path / "seg.dcm", "PlanePositionSequence"))
    del derived.ReferencedSeriesSequence
    assert references_of(derived).instances == {header.SOPInstanceUID for header in headers[1:]}
    assert references_of(pydicom.Dataset()).series == frozenset()


def test_a_real_one_has_the_pixels_that_pydicom_reads(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(PYDICOM / "liver_1frame.dcm")
    path = tmp_path / "one.dcm"
    del dataset.PerFrameFunctionalGroupsSequence[1:]  # of frames that were cut off
    dataset.save_as(path)
    groups = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence[0]
    spacing = [float(s) for s in groups[0].PixelMeasuresSequence[0].PixelSpacing]
    row, column = np.reshape(groups[0].PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = column * spacing[0], row * spacing[1], np.cross(row, column)
    affine[:3, 3] = groups[1].PlanePositionSequence[0].ImagePositionPatient
    image = Scan(np.zeros((1, 512, 512), np.uint8), tuple(spacing), np.diag([-1.0, -1, 1, 1]) @ affine, "CT")
    found = segmentation_on(path, image)
    np.testing.assert_array_equal(found, dataset.pixel_array)
    assert 0 < found.sum() < found.size


@pytest.mark.parametrize(("shape", "slices"), [([7, 11, 6], None), ([7, 11], {"axis": 2})])
def test_it_is_kept_beside_the_sample_of_its_series(
    tmp_path: Path, shape: list[int], slices: dict[str, int] | None
) -> None:
    paths, _ = series(tmp_path)
    path = write_segmentation(tmp_path / "seg.dcm", paths, classes())
    keys = KeyMaker(bytes(32))
    members = tuple(Member(str(path), f"{index:032}") for index, path in enumerate(paths))
    mask = Mask(str(path), path.stat().st_size, "")
    source = PackSource(keys.source_key("s"), str(paths[0]), "s", members=members, mask=mask)
    data = declared(shape, slices=slices, masks="pair", aspect="stretch", series={})
    found = [event for event in SourceReader(data, keys).events(source) if isinstance(event, EncodedScan)]
    masks = [decode(event.key, event.npy, event.json).mask() for event in found]
    np.testing.assert_array_equal(masks[0] if slices is None else np.stack(masks, axis=-1), in_ras(classes()))
    moved(path, 0, [0, 0, 4])
    [refused] = [event for event in SourceReader(data, keys).events(source) if isinstance(event, UnusableScan)]
    assert refused.reason == "its segmentation goes beyond it"
