from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import PYDICOM, all_found, edited, only, reason
from tests.writers import PATIENT, PATIENT_ID, PATIENT_UID, write_dicom

READER = DicomReader()
RAMP = np.arange(20, dtype=np.uint16).reshape(4, 5) * 200


def refusal(path: Path) -> str:
    return reason(READER, path)


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
        ("JPEG2000-embedded-sequence-delimiter.dcm", "declares more values"),
        ("meta_missing_tsyntax.dcm", "without an image"),
        ("MR_truncated.dcm", "damaged"),
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


def test_every_real_file_is_read_or_refused_in_few_words(capfd: pytest.CaptureFixture[str]) -> None:
    read, reasons = 0, []
    for path in sorted(p for p in PYDICOM.iterdir() if p.is_file()):
        try:
            read += bool(all_found(READER, path))
        except ScanError as error:
            reasons.append(error.what)
    assert read >= 46
    assert len(reasons) >= 30
    assert len(set(reasons)) < 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_real_file_that_is_read_has_the_values_that_pydicom_has() -> None:
    """The table of docs/reference/dicom.md."""
    files = sorted(p for p in PYDICOM.rglob("*") if p.is_file())
    counts = Counter(_compared(path) for path in files)
    assert counts["equal"] >= 80
    assert counts["read, though pydicom has no values"] == 2  # JPEG of 12 bits: see test_pixels.py
    assert counts["refused without need"] == 0
    assert sum(counts.values()) == len(files)


def _compared(path: Path) -> str:
    try:
        found = all_found(READER, path)
    except ScanError as error:
        if "dose" in error.what:
            return "a segmentation or dose"
        return "refused without need" if _has_values(path) else "pydicom has no values"
    if not _has_values(path):
        return "read, though pydicom has no values"
    arrays = [f.scan.array for f in found if isinstance(f.scan, Scan)]
    np.testing.assert_allclose(np.stack(arrays), _by_pydicom(path, len(found)), rtol=1e-6)
    return "equal"


def _has_values(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(path, force=True).pixel_array.size > 0
        except Exception:  # whatever its decoders raise
            return False


def _by_pydicom(path: Path, frames: int) -> np.ndarray:
    """(frame, channel, row, column), by pydicom's own functions alone."""
    dataset = pydicom.dcmread(path, force=True)
    pixels = dataset.pixel_array if frames > 1 else dataset.pixel_array[None]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 4:
        return np.moveaxis(pixels, -1, 1)
    padding = pixels == dataset.PixelPaddingValue if "PixelPaddingValue" in dataset else np.zeros(pixels.shape, bool)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 2**dataset.BitsStored - 1 - pixels.astype(int)
    values = apply_modality_lut(pixels, dataset)
    return np.where(padding, values[~padding].min(), values)[:, None]


def test_a_volume_of_frames_is_one_scan_and_other_frames_are_one_each(tmp_path: Path) -> None:
    """``frame/N`` as ``slice/N``: ordinals from 0."""
    plain = all_found(READER, write_dicom(tmp_path / "a.dcm", array=np.stack([RAMP, RAMP + 1]), frames=2))
    assert [found.item for found in plain] == ["frame/0", "frame/1"]
    for n, found in enumerate(plain):
        assert isinstance(found.scan, Scan)
        assert (found.scan.array[0] == RAMP + n).all()
        assert found.scan.affine is None
        assert found.scan.spacing == (0.8, 0.6)
    assert only(READER, write_dicom(tmp_path / "b.dcm", frames=1)).shape == (32, 24)


def test_overlays_are_not_drawn(tmp_path: Path) -> None:
    plain = only(READER, write_dicom(tmp_path / "a.dcm", array=RAMP))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.add_new(0x60000010, "US", RAMP.shape[0])
    dataset.add_new(0x60000011, "US", RAMP.shape[1])
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", b"\xff" * 4)
    dataset.save_as(tmp_path / "a.dcm")
    assert (only(READER, tmp_path / "a.dcm").array == plain.array).all()


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


def test_absurd_headers_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm"))
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(tmp_path / "a.dcm")
    assert refusal(tmp_path / "a.dcm").startswith("the header declares 4294836225 values")


@pytest.mark.parametrize("frames", [2**31 - 1, -3])
def test_absurd_numbers_of_frames_are_refused(tmp_path: Path, frames: int) -> None:
    path = edited(write_dicom(tmp_path / "a.dcm"), NumberOfFrames=frames)
    assert refusal(path) == "the DICOM header declares an impossible number of frames"


def test_a_file_without_a_suffix(tmp_path: Path) -> None:
    shutil.copy(PYDICOM / "CT_small.dcm", tmp_path / "IM0001")
    assert only(READER, tmp_path / "IM0001").shape == (128, 128)
