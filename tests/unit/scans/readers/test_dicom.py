from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom import DicomReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import PYDICOM, all_found, only
from tests.writers import PATIENT, PATIENT_ID, PATIENT_UID, write_dicom

READER = DicomReader()
RAMP = np.arange(20, dtype=np.uint16).reshape(4, 5) * 200


def refusal(path: Path) -> str:
    with pytest.raises(ScanError) as error:
        all_found(READER, path)
    for private in (PATIENT, PATIENT_ID, PATIENT_UID, path.name):
        assert private not in str(error.value)
    return error.value.what


def test_real_ct_is_in_hounsfield_units() -> None:
    scan = only(READER, PYDICOM / "CT_small.dcm")
    raw = pydicom.dcmread(PYDICOM / "CT_small.dcm").pixel_array
    assert scan.modality == "CT"
    assert scan.array.dtype == np.int16
    assert (scan.array[0] == raw.astype(int) - 1024).all()
    assert scan.spacing == pytest.approx((0.661468, 0.661468))


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"])
def test_real_mr_in_every_uncompressed_encoding(name: str) -> None:
    scan = only(READER, PYDICOM / name)
    assert scan.modality == "MR"
    assert (scan.array[0] == pydicom.dcmread(PYDICOM / "MR_small.dcm").pixel_array).all()


def test_real_colour_pictures_are_rgb() -> None:
    scan = only(READER, PYDICOM / "SC_ybr_full_422_uncompressed.dcm")
    assert scan.array.shape == (3, 100, 100)
    # The file's first bars: red, then green (5 is left of the conversion from YBR).
    assert scan.array[:, 5, 50].tolist() == [254, 0, 0]
    assert scan.array[:, 25, 50].tolist() == [0, 255, 5]
    assert only(READER, PYDICOM / "examples_rgb_color.dcm").array.shape == (3, 240, 320)
    assert only(READER, PYDICOM / "examples_rgb_color.dcm").modality == "US"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("JPEG2000.dcm", "compressed"),
        ("MR_small_RLE.dcm", "compressed"),
        ("image_dfl.dcm", "compressed"),
        ("meta_missing_tsyntax.dcm", "without a transfer syntax"),
        ("MR_truncated.dcm", "damaged"),
        ("examples_palette.dcm", "photometric"),
        ("rtdose.dcm", "segmentation or dose"),
        ("liver_1frame.dcm", "segmentation or dose"),
        ("badVR.dcm", "segmentation or dose"),
        ("rtplan.dcm", "without an image"),
        ("waveform_ecg.dcm", "without an image"),
        ("no_meta.dcm", "not a readable DICOM"),
        ("README.txt", "not a readable DICOM"),
    ],
)
def test_real_files_that_are_refused(name: str, reason: str, recwarn: pytest.WarningsRecorder) -> None:
    assert reason in refusal(PYDICOM / name)
    assert not recwarn.list


def test_every_real_file_is_read_or_refused_in_few_words() -> None:
    read, reasons = 0, []
    for path in sorted(p for p in PYDICOM.iterdir() if p.is_file()):
        try:
            read += only(READER, path).channels > 0
        except ScanError as error:
            reasons.append(error.what)
    assert read >= 13
    assert len(reasons) >= 40
    assert len(set(reasons)) < 10


def test_multi_frame_is_refused(tmp_path: Path) -> None:
    assert refusal(write_dicom(tmp_path / "a.dcm", frames=2)) == "a multi-frame DICOM file"
    assert only(READER, write_dicom(tmp_path / "b.dcm", frames=1)).shape == (32, 24)


def test_text_burned_into_the_image_is_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm"))
    dataset.BurnedInAnnotation = "YES"
    dataset.save_as(tmp_path / "a.dcm")
    assert "burned" in refusal(tmp_path / "a.dcm")


def test_nothing_that_names_the_patient_is_in_the_scan(tmp_path: Path) -> None:
    [found] = all_found(READER, write_dicom(tmp_path / f"{PATIENT}.dcm"))
    assert isinstance(found.scan, Scan)
    text = repr(found)
    assert not any(private in text for private in (PATIENT, PATIENT_ID, PATIENT_UID, "Doe"))


def test_monochrome1_is_turned_over_before_it_is_rescaled(tmp_path: Path) -> None:
    plain = only(READER, write_dicom(tmp_path / "a.dcm", array=RAMP))
    turned = only(READER, write_dicom(tmp_path / "b.dcm", array=RAMP, photometric="MONOCHROME1", intercept=-1000))
    assert (plain.array[0] == RAMP).all()
    assert (turned.array[0] == 4095 - RAMP.astype(int) - 1000).all()


def test_signed_monochrome1(tmp_path: Path) -> None:
    signed = RAMP.astype(np.int16) - 2000
    scan = only(READER, write_dicom(tmp_path / "a.dcm", array=signed, photometric="MONOCHROME1"))
    assert (scan.array[0] == -1 - signed).all()


def test_bits_beyond_the_stored_ones_are_not_values(tmp_path: Path) -> None:
    overlaid = RAMP | np.uint16(1 << 14)  # old files keep an overlay there
    scan = only(READER, write_dicom(tmp_path / "a.dcm", array=overlaid, photometric="MONOCHROME1"))
    assert (scan.array[0] == 4095 - RAMP).all()


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"), [(1, -1024, "int16"), (2, 7, "int16"), (0.5, 3, "float32"), (100, 0, "int32")]
)
def test_rescaling(tmp_path: Path, slope: float, intercept: float, dtype: str) -> None:
    scan = only(READER, write_dicom(tmp_path / "a.dcm", array=RAMP, slope=slope, intercept=intercept))
    assert scan.array.dtype == dtype
    np.testing.assert_allclose(scan.array[0], RAMP.astype(float) * slope + intercept)


def test_empty_rescale_elements_mean_none(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", array=RAMP))
    dataset.RescaleSlope = None
    dataset.save_as(tmp_path / "a.dcm")
    assert (only(READER, tmp_path / "a.dcm").array[0] == RAMP).all()


def test_affine_maps_row_and_column_as_the_standard_says(tmp_path: Path) -> None:
    orientation = [0, 1, 0, 0, 0, -1]  # a sagittal image: along a row to the back, down a column to the feet
    scan = only(READER, write_dicom(tmp_path / "a.dcm", orientation=orientation, position=(10, 20, 30)))
    assert scan.spacing == (0.8, 0.6)
    assert scan.affine is not None
    row, column = 5, 7
    lps = np.array([10, 20, 30]) + column * 0.6 * np.array([0, 1, 0]) + row * 0.8 * np.array([0, 0, -1])
    np.testing.assert_allclose((scan.affine @ [row, column, 0, 1])[:3], lps * [-1, -1, 1])


def test_unknown_place_is_told_as_unknown(tmp_path: Path) -> None:
    assert only(READER, write_dicom(tmp_path / "a.dcm", position=None)).affine is None
    zeros = [0] * 6
    assert only(READER, write_dicom(tmp_path / "b.dcm", orientation=zeros)).affine is None
    assert only(READER, write_dicom(tmp_path / "c.dcm", spacing=None)).spacing == (1, 1)


def test_projection_images_take_the_detectors_spacing(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", modality="DX", spacing=None))
    dataset.ImagerPixelSpacing = [0.2, 0.1]
    dataset.save_as(tmp_path / "a.dcm")
    scan = only(READER, tmp_path / "a.dcm")
    assert scan.spacing == (0.2, 0.1)
    assert scan.modality == "XR"


def test_impossible_spacing_is_refused(tmp_path: Path) -> None:
    assert "spacing" in refusal(write_dicom(tmp_path / "a.dcm", spacing=(0.0, 0.6), position=None))


def test_absurd_headers_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm"))
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(tmp_path / "a.dcm")
    assert refusal(tmp_path / "a.dcm").startswith("the header declares 4294836225 values")


def test_a_file_without_a_suffix(tmp_path: Path) -> None:
    shutil.copy(PYDICOM / "CT_small.dcm", tmp_path / "IM0001")
    assert only(READER, tmp_path / "IM0001").shape == (128, 128)
