"""Multi-frame and enhanced files, stacks, spacing."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medfuncta_dist.scans.canonical import canonical, slices, windowed
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import NIBABEL, all_found, declared, edited, only, reason
from tests.writers import write_dicom, write_enhanced_dicom

READER = DicomReader()
SIZE = (5, 4, 3)  # frames, rows, columns
FRAMES = np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE) * 10
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIGIN = np.array([-30.0, 40.0, 7.0])


def along(orientation: tuple[float, ...], step: float) -> np.ndarray:
    """Positions of the frames (LPS, mm) at equal steps along the normal."""
    return ORIGIN + np.arange(len(FRAMES))[:, None] * step * np.cross(orientation[:3], orientation[3:])


def lps_of(orientation: tuple[float, ...], positions: np.ndarray, frame: int, row: int, column: int) -> np.ndarray:
    """Where a pixel is, by DICOM PS3.3 C.7.6.2.1.1; the writer's pixels are 0.5 mm high and 0.25 mm wide."""
    across, down = np.array(orientation).reshape(2, 3)
    return positions[frame] + column * 0.25 * across + row * 0.5 * down


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("step", [2.0, -0.7])
def test_frames_at_equal_steps_are_a_volume_with_an_exact_affine(
    tmp_path: Path, orientation: tuple[float, ...], step: float
) -> None:
    order = [3, 0, 4, 1, 2]
    positions = along(orientation, step)[order]
    path = write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, positions.tolist(), orientation=orientation)
    scan = only(READER, path)
    assert scan.affine is not None
    assert (np.argmax(np.abs(scan.affine[:3, :3]), axis=0) == [0, 1, 2]).all()
    assert (np.diag(scan.affine)[:3] > 0).all()
    assert sorted(scan.spacing) == pytest.approx(sorted([0.5, 0.25, abs(step)]))
    for index in np.ndindex(SIZE):
        ras = lps_of(orientation, positions, *index) * [-1, -1, 1]
        voxel = np.linalg.solve(scan.affine, [*ras, 1])[:3]
        place = np.rint(voxel).astype(int)
        np.testing.assert_allclose(voxel, place, atol=1e-4)
        assert scan.array[(0, *place)] == FRAMES[index] - 1024


def test_a_real_enhanced_mr_is_a_volume_with_every_frame_at_its_place(tmp_path: Path) -> None:
    packed = NIBABEL.parents[1] / "nicom" / "tests" / "data" / "philips_mprage.dcm.gz"
    (tmp_path / "a.dcm").write_bytes(gzip.decompress(packed.read_bytes()))
    scan = only(READER, tmp_path / "a.dcm")
    assert (scan.shape, scan.modality) == ((176, 256, 256), "MR")
    assert scan.affine is not None
    frames = pydicom.dcmread(tmp_path / "a.dcm").PerFrameFunctionalGroupsSequence
    for frame in frames:
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float) * [-1, -1, 1]
        voxel = np.linalg.solve(scan.affine, [*corner, 1])[:3]
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-3)  # the file's positions are that even
        assert (np.rint(voxel) >= 0).all()
        assert (np.rint(voxel) < scan.shape).all()


def test_cosines_of_few_digits_are_directions_all_the_same(tmp_path: Path) -> None:
    """Of length 0.9995; the spacing of the pixels is the header's."""
    rounded = [1, 0, 0, 0, 0.988, -0.1515]
    scan = only(READER, write_dicom(tmp_path / "a.dcm", orientation=rounded))
    assert scan.affine is not None
    np.testing.assert_allclose(np.linalg.norm(scan.affine[:3, :2], axis=0), [0.8, 0.6], rtol=1e-12)
    across = scan.affine[:3, 0] / 0.8
    np.testing.assert_allclose(across, np.array([0, -0.988, -0.1515]) / np.hypot(0.988, 0.1515), atol=1e-12)


def nuclear(path: Path, step: float, order: list[int], *, orientation: tuple[float, ...] = OBLIQUE) -> Path:
    """Reconstructed slices of nuclear medicine: the place of the first one is the detector's."""
    write_dicom(path, array=FRAMES.astype(np.uint16), frames=len(FRAMES), position=None, spacing=(0.5, 0.25))
    detector = pydicom.Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = ORIGIN.tolist(), list(orientation)
    return edited(
        path,
        Modality="NM",
        SpacingBetweenSlices=step,
        SliceVector=[number + 1 for number in order],
        DetectorInformationSequence=[detector],
    )


@pytest.mark.parametrize("step", [1.5, -1.5])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 1, 2]])
def test_slices_of_nuclear_medicine_are_a_volume(tmp_path: Path, step: float, order: list[int]) -> None:
    scan = only(READER, nuclear(tmp_path / "a.dcm", step, order))
    positions = along(OBLIQUE, step)[order]
    assert scan.affine is not None
    assert sorted(scan.spacing) == pytest.approx([0.25, 0.5, 1.5])
    for index in np.ndindex(SIZE):
        voxel = np.linalg.solve(scan.affine, [*lps_of(OBLIQUE, positions, *index) * [-1, -1, 1], 1])[:3]
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-6)
        assert scan.array[(0, *np.rint(voxel).astype(int))] == FRAMES[index]


def test_one_slice_of_nuclear_medicine_has_a_place(tmp_path: Path) -> None:
    path = edited(nuclear(tmp_path / "a.dcm", 1.5, [0]), NumberOfFrames=1, PixelData=FRAMES[0].tobytes())
    scan = only(READER, path)
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine[:3, 3], ORIGIN * [-1, -1, 1])


@pytest.mark.parametrize(
    "elements",
    [
        {"SliceVector": [1, 2, 3]},
        {"SliceVector": None},
        {"SpacingBetweenSlices": None},
        {"DetectorInformationSequence": []},
    ],
)
def test_frames_of_nuclear_medicine_whose_slices_are_not_told_are_images(tmp_path: Path, elements: dict) -> None:
    found = all_found(READER, edited(nuclear(tmp_path / "a.dcm", 1.5, [0, 1, 2, 3, 4]), **elements))
    assert [one.item for one in found] == [f"frame/{n}" for n in range(5)]
    assert all(isinstance(one.scan, Scan) and one.scan.affine is None for one in found)


def test_detectors_at_different_places_say_nothing(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(nuclear(tmp_path / "a.dcm", 1.5, [0, 1, 2, 3, 4]))
    other = pydicom.Dataset()
    other.ImagePositionPatient, other.ImageOrientationPatient = [0, 0, 0], list(AXIAL)
    dataset.DetectorInformationSequence.append(other)
    dataset.save_as(tmp_path / "a.dcm")
    assert len(all_found(READER, tmp_path / "a.dcm")) == 5


BROKEN = {
    "a gap": np.array([0, 1, 2, 4, 5]),
    "twice the same place": np.array([0, 1, 1, 2, 3]),
    "one place": np.zeros(5),
}


@pytest.mark.parametrize("steps", BROKEN.values(), ids=BROKEN)
def test_frames_that_are_no_regular_stack_are_images_each_at_its_place(tmp_path: Path, steps: np.ndarray) -> None:
    positions = ORIGIN + steps[:, None] * [0, 0, 2]
    found = all_found(READER, write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, positions.tolist()))
    assert [f.item for f in found] == [f"frame/{n}" for n in range(5)]
    for f, values, position in zip(found, FRAMES, positions, strict=True):
        assert isinstance(f.scan, Scan)
        assert (f.scan.array[0] == values - 1024).all()
        assert f.scan.spacing == (0.5, 0.25)
        assert f.scan.affine is not None
        assert f.scan.affine[:3, 3].tolist() == (position * [-1, -1, 1]).tolist()
        assert np.linalg.norm(f.scan.affine[:3, 2]) == 7


def test_a_tilted_gantry_is_no_regular_stack(tmp_path: Path) -> None:
    tilted = along(AXIAL, 2.0) + np.arange(5)[:, None] * [0, 0.5, 0]
    assert len(all_found(READER, write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, tilted.tolist()))) == 5


def test_frames_of_two_orientations_are_no_stack(tmp_path: Path) -> None:
    path = write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, along(AXIAL, 2.0).tolist())
    dataset = pydicom.dcmread(path)
    turned = pydicom.Dataset()
    turned.ImageOrientationPatient = list(SAGITTAL)
    dataset.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = [turned]
    dataset.save_as(path)
    assert len(all_found(READER, path)) == 5


def test_rounded_positions_are_still_a_stack(tmp_path: Path) -> None:
    positions = np.round(along(OBLIQUE, 0.7), 2)
    path = write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, positions.tolist(), orientation=OBLIQUE)
    assert len(only(READER, path).shape) == 3


def test_one_frame_with_functional_groups_takes_geometry_and_scale_from_them(tmp_path: Path) -> None:
    scan = only(READER, write_enhanced_dicom(tmp_path / "a.dcm", FRAMES[:1], [ORIGIN.tolist()]))
    assert (scan.array[0] == FRAMES[0] - 1024).all()
    assert scan.spacing == (0.5, 0.25)
    assert scan.affine is not None
    assert scan.affine[:3, 3].tolist() == [30, -40, 7]


def test_frames_without_a_position_have_no_affine(tmp_path: Path) -> None:
    path = write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, None)
    edited(path, ImagePositionPatient=[1, 2, 3])  # of which frame?
    for found in all_found(READER, path):
        assert isinstance(found.scan, Scan)
        assert found.scan.affine is None
        assert found.scan.spacing == (0.5, 0.25)


def test_functional_groups_of_another_number_of_frames_are_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, along(AXIAL, 2.0).tolist()))
    del dataset.PerFrameFunctionalGroupsSequence[0]
    dataset.save_as(tmp_path / "a.dcm")
    assert "functional groups" in reason(READER, tmp_path / "a.dcm")


def test_a_stack_is_packed_like_any_volume(tmp_path: Path) -> None:
    scan = only(READER, write_enhanced_dicom(tmp_path / "a.dcm", FRAMES, along(AXIAL, 2.0).tolist()))
    assert canonical(scan, declared([4, 4, 4])).array.shape == (1, 4, 4, 4)
    sliced = declared([4, 4], slices={"axis": 2})
    pieces = list(slices(windowed(scan, sliced), sliced.slices))  # type: ignore[arg-type]
    assert [index for index, _ in pieces] == list(range(5))
    assert {piece.window for _, piece in pieces} == {windowed(scan, sliced).window}


@pytest.mark.parametrize("spacing", [(0.0, 0.6), (0.8, 0.0), (-0.8, 0.6)])
def test_impossible_spacing_counts_as_none(tmp_path: Path, spacing: tuple[float, float]) -> None:
    scan = only(READER, write_dicom(tmp_path / "a.dcm", spacing=spacing))
    assert scan.spacing == (1, 1)
    assert scan.affine is None


def test_the_shape_of_pixels_counts_where_there_is_no_spacing(tmp_path: Path) -> None:
    path = edited(write_dicom(tmp_path / "a.dcm", spacing=None), PixelAspectRatio=[3, 2])
    scan = only(READER, path)
    assert scan.spacing == (1.5, 1)
    assert scan.affine is None
    assert only(READER, edited(path, PixelAspectRatio=[0, 2])).spacing == (1, 1)
    assert only(READER, edited(path, PixelSpacing=[0.3, 0.4], PixelAspectRatio=[3, 2])).spacing == (0.3, 0.4)
