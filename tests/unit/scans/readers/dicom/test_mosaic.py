"""Mosaics, by the real ones that nibabel carries: 48 slices of 128 x 128 in a picture of 896 x 896."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.readers.dicom.series_reader import InstanceFile, series_volumes
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import NIBABEL, edited, only, reason
from tests.writers import write_dicom

READER = DicomReader()
REAL = NIBABEL.parents[1] / "nicom" / "tests" / "data"
SIZE, SLICES = 128, 48
CSA = (0x0029, 0x1010)
NORMAL = (b"0.00523632", b"0.99998629")
"""Of the slices, in the private header."""


def mosaic(folder: Path, name: str = "siemens_dwi_0", change: Callable[[pydicom.Dataset], None] | None = None) -> Path:
    path = folder / f"{name}.dcm"
    path.write_bytes(gzip.decompress((REAL / f"{name}.dcm.gz").read_bytes()))
    if change is not None:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    return path


def test_every_slice_is_at_its_place(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    scan, dataset = only(READER, path), pydicom.dcmread(path)
    assert scan.shape == (SIZE, SIZE, SLICES)
    assert scan.spacing == pytest.approx((1.796875, 1.796875, 3))
    across, down = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    middle = np.array(dataset.ImagePositionPatient, float) + 1.796875 * 448 * (across + down)  # of the mosaic, in LPS
    assert scan.affine is not None
    for number in (0, 1, 7, 47):
        tile_row, tile_column = divmod(number, 7)
        tile = dataset.pixel_array[tile_row * SIZE :, tile_column * SIZE :][:SIZE, :SIZE]
        for row, column in ((0, 0), (5, 70), (127, 127)):
            inside = 1.796875 * ((column - 64) * across + (row - 64) * down)
            lps = middle + inside + 3 * number * np.cross(across, down)
            voxel = np.linalg.solve(scan.affine, [*lps * [-1, -1, 1], 1])[:3]
            np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-3)
            assert scan.array[(0, *np.rint(voxel).astype(int))] == tile[row, column]


def test_the_affine_is_the_one_of_dcm2niix(tmp_path: Path) -> None:
    """dcm2niix 1.0.20260724 of this file, to the digits that float32 has."""
    scan = only(READER, mosaic(tmp_path))
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine[:3, 3], [-113.203125, -93.17147827, -79.90534973], atol=1e-4)


def test_slices_on_the_other_side_of_the_first(tmp_path: Path) -> None:
    def turn(dataset: pydicom.Dataset) -> None:
        data = dataset[CSA].value
        for number in NORMAL:
            assert number in data
            data = data.replace(number, b"-" + number[:-1])
        dataset[CSA].value = data

    plain, turned = only(READER, mosaic(tmp_path)), only(READER, mosaic(tmp_path, change=turn))
    assert (turned.array == plain.array[..., ::-1]).all()
    assert plain.affine is not None
    assert turned.affine is not None
    np.testing.assert_allclose(turned.affine[:3, :3], plain.affine[:3, :3], atol=1e-12)
    np.testing.assert_allclose(turned.affine[:3, 3], plain.affine[:3, 3] - 47 * plain.affine[:3, 2], atol=1e-9)


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    path = mosaic(tmp_path, change=lambda dataset: dataset.remove_private_tags())
    assert "does not say how they lie" in reason(READER, path)
    path = edited(write_dicom(tmp_path / "a.dcm"), ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    assert "does not say how they lie" in reason(READER, path)


def test_a_mosaic_without_a_place_is_refused(tmp_path: Path) -> None:
    assert "without position" in reason(READER, edited(mosaic(tmp_path), ImagePositionPatient=None))
    path = edited(edited(mosaic(tmp_path), SpacingBetweenSlices=None), SliceThickness=None)
    assert "without position" in reason(READER, path)


def test_a_mosaic_that_its_slices_do_not_fill_is_refused() -> None:
    assert reason(READER, NIBABEL / "0.dcm") == "a mosaic whose slices do not fill it"  # nibabel has made it smaller


def test_in_a_series_each_mosaic_is_a_volume(tmp_path: Path) -> None:
    files = [InstanceFile(mosaic(tmp_path, f"siemens_dwi_{b}"), name) for b, name in (("1000", "b"), ("0", "a"))]
    parts = list(series_volumes([*files, files[1]], Series()))
    assert [(part.files, part.found.item) for part in parts if part.found] == [
        (1, "mosaic/a"),
        (1, "mosaic/b"),
        (1, "left/0"),
    ]
    for part in parts[:2]:
        assert part.found is not None
        assert part.found.alike
        assert isinstance(part.found.scan, Scan)
        assert part.found.scan.shape == (SIZE, SIZE, SLICES)


def test_derived_mosaics_follow_the_rule_for_derived_images(tmp_path: Path) -> None:
    path = edited(mosaic(tmp_path), ImageType=["DERIVED", "PRIMARY", "MOSAIC"])
    [left] = series_volumes([InstanceFile(path, "a")], Series())
    assert left.found is not None
    assert str(left.found.scan) == "an image that was derived from others"
    [kept] = series_volumes([InstanceFile(path, "a")], Series.model_validate({"derived": "keep"}))
    assert kept.found is not None
    assert kept.found.item == "mosaic/a"
