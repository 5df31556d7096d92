"""Decoders, colours, padding, units."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import MPEG2MPML, HTJ2KLossless, JPEG2000Lossless, RLELossless

from medfuncta_dist.scans.readers.dicom import jpeg12
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from tests.unit.scans.archive import PYDICOM, all_found, edited, only, reason
from tests.writers import PATIENT_UID, write_dicom, write_enhanced_dicom

READER = DicomReader()
RAMP = np.arange(20, dtype=np.uint16).reshape(4, 5) * 200
LARGE = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)  # JPEG 2000 wants several resolutions


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless"])
def test_lossless_syntaxes_have_the_values_of_the_uncompressed_file(name: str) -> None:
    assert (only(READER, PYDICOM / f"MR_small_{name}.dcm").array == only(READER, PYDICOM / "MR_small.dcm").array).all()


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm", "SC_rgb_jls_lossy_line", "SC_rgb_rle", "SC_rgb_jpeg_dcmtk"])
def test_colour_in_every_family_of_syntaxes(name: str) -> None:
    array = only(READER, PYDICOM / f"{name}.dcm").array
    assert array.shape == (3, 100, 100)
    assert array[0, 5, 50] > 250 > 5 > array[1, 5, 50]  # the first bar is red


def test_every_frame_of_a_compressed_file() -> None:
    pixels = pydicom.dcmread(PYDICOM / "examples_ybr_color.dcm").pixel_array
    found = all_found(READER, PYDICOM / "examples_ybr_color.dcm")
    assert [f.item for f in found] == [f"frame/{n}" for n in range(30)]
    for one, frame in zip(found, pixels, strict=True):
        assert (np.moveaxis(one.scan.array, 0, -1) == frame).all()  # type: ignore[union-attr]


def test_high_throughput_jpeg_2000(tmp_path: Path) -> None:
    """No encoder for it is at hand. A constant image has no code blocks: its codestream of Part 1 becomes one of
    Part 15 by the marker CAP and the block style, and only a decoder of Part 15 takes it."""
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", array=np.full((32, 32), 128, np.uint8)))
    dataset.compress(JPEG2000Lossless)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    frame[6] |= 0x40  # Rsiz: Part 15 is used
    style = frame.index(b"\xff\x52") + 12
    frame[style] = 0x40
    end = 4 + int.from_bytes(frame[4:6], "big")
    capabilities = b"\xff\x50\x00\x08" + (1 << 17).to_bytes(4, "big") + bytes(2)
    dataset.PixelData = encapsulate([bytes(frame[:end] + capabilities + frame[end:])])
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    dataset.save_as(tmp_path / "a.dcm")
    assert (only(READER, tmp_path / "a.dcm").array == 128).all()


@pytest.mark.parametrize("name", ["JPGExtended", "JPEG-lossy"])
def test_jpeg_of_12_bits(name: str) -> None:
    """Both files are of one picture, as libjpeg-turbo and ITK decode it too: these numbers are theirs. The third is the
    same picture in JPEG 2000, with losses of its own."""
    array = only(READER, PYDICOM / f"{name}.dcm").array
    assert (array.dtype, array.shape, array.min(), array.max()) == (np.uint16, (1, 1024, 256), 0, 264)
    assert array.sum(dtype=np.int64) == 3_767_007
    assert array[0, 500, 100:110].tolist() == [31, 28, 24, 21, 24, 23, 23, 22, 22, 21]
    assert np.abs(array - only(READER, PYDICOM / "JPEG2000.dcm").array.astype(int)).mean() < 5


def test_signed_jpeg_of_12_bits(tmp_path: Path) -> None:
    """The bits are the same; the header says that they are a two's complement."""
    dataset = pydicom.dcmread(PYDICOM / "JPGExtended.dcm")
    dataset.PixelRepresentation = 1
    dataset.save_as(tmp_path / "a.dcm")
    array = only(READER, tmp_path / "a.dcm").array
    assert array.dtype == np.int16
    assert (array == only(READER, PYDICOM / "JPGExtended.dcm").array).all()
    assert jpeg12._signed(np.array([0, 2047, 2048, 4095], np.uint16)).tolist() == [0, 2047, -2048, -1]


def test_jpeg_of_12_bits_in_colour_is_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(PYDICOM / "JPGExtended.dcm")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.save_as(tmp_path / "a.dcm")
    assert "that is no grey image" in reason(READER, tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm"])
def test_frames_that_declare_more_than_the_header_are_not_decoded(tmp_path: Path, name: str) -> None:
    dataset = pydicom.dcmread(PYDICOM / f"{name}.dcm")
    dataset.Rows = 16
    dataset.save_as(tmp_path / "a.dcm")
    assert reason(READER, tmp_path / "a.dcm") == "a compressed DICOM frame declares more values than the file's header"


def test_a_header_that_declares_far_more_than_is_stored_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(PYDICOM / "MR_small_RLE.dcm")
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 64, 4096, 4096
    dataset.save_as(tmp_path / "a.dcm")
    assert reason(READER, tmp_path / "a.dcm").endswith("a decompression bomb")


@pytest.mark.parametrize(
    ("hidden", "name", "syntax"),
    [
        ("gdcm", "SC_rgb_jpeg_dcmtk", "JPEG Baseline (Process 1)"),
        ("gdcm", "MR_small_jpeg_ls_lossless", "JPEG-LS Lossless Image Compression"),
        ("pylibjpeg", "JPEG2000", "JPEG 2000 Image Compression"),
    ],
)
def test_without_a_decoder_the_reason_names_syntax_and_extra(hidden: str, name: str, syntax: str) -> None:
    """Pillow could read some of them: with other values in lossy syntaxes."""
    code = f"""
import sys; sys.modules[{hidden!r}] = None
from pathlib import Path
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom import jpeg12
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
assert list(DicomReader().scans(Path({str(PYDICOM / "MR_small_RLE.dcm")!r})))
try: list(DicomReader().scans(Path({str(PYDICOM / f"{name}.dcm")!r})))
except ScanError as error: print(error.what, "|", error.do)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    what, do = done.stdout.strip().split(" | ")
    assert what.startswith(f"a DICOM file compressed as {syntax}")
    assert what.endswith("whose decoder is not installed (extra dicom)")
    assert do == "pip install 'medfuncta-dist[dicom]'"


@pytest.mark.parametrize(
    ("syntax", "name"), [(MPEG2MPML, "MPEG2 Main Profile / Main Level"), (PATIENT_UID, "an unknown transfer syntax")]
)
def test_syntaxes_that_are_not_read_are_named_if_the_standard_names_them(
    tmp_path: Path, syntax: str, name: str
) -> None:
    dataset = pydicom.dcmread(PYDICOM / "MR_small_RLE.dcm")
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "a.dcm")
    assert reason(READER, tmp_path / "a.dcm") == f"a DICOM file compressed as {name}, which is not read"


def test_more_pixels_than_the_header_declares_are_left_out(tmp_path: Path) -> None:
    path = edited(write_dicom(tmp_path / "a.dcm", array=RAMP), PixelData=RAMP.tobytes() * 3)
    assert (only(READER, path).array[0] == RAMP).all()


def palette(path: Path, indices: np.ndarray, first: int, colours: np.ndarray) -> Path:
    """``colours``: (3, entry), 8 or 16 bits."""
    dataset = pydicom.dcmread(write_dicom(path, array=indices))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name, table in zip(("Red", "Green", "Blue"), colours, strict=True):
        descriptor = [colours.shape[1], first, colours.dtype.itemsize * 8]
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", descriptor)
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", table.tobytes())
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_palette(tmp_path: Path, dtype: type) -> None:
    colours = np.array([[1, 2, 3, 4], [10, 20, 30, 40], [100, 150, 200, 250]], dtype)
    indices = np.array([[0, 5, 6], [7, 8, 200]], np.uint8)
    array = only(READER, palette(tmp_path / "a.dcm", indices, 5, colours)).array
    assert array.dtype == dtype
    # Below the first entry and above the last, the standard takes these.
    assert (array == colours[:, [[0, 0, 1], [2, 3, 3]]]).all()


def test_a_palette_that_pydicom_would_wrap_around_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((3, 300), np.uint8)
    assert "256 colours" in reason(READER, palette(tmp_path / "a.dcm", RAMP % 300, 0, colours))


def padded(path: Path, array: np.ndarray, value: int, limit: int | None = None, **keys: object) -> np.ndarray:
    """Elements of 16 bits, as pydicom writes them for the pixels' representation."""
    write_dicom(path, array=array, **keys)  # type: ignore[arg-type]
    dataset = pydicom.dcmread(path)
    kind = "SS" if array.dtype.kind == "i" else "US"
    dataset.add_new("PixelPaddingValue", kind, value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", kind, limit)
    dataset.save_as(path)
    return only(READER, path).array[0]


def test_padding_is_background(tmp_path: Path) -> None:
    pixels = np.array([[-2000, 24, 50], [-2000, 30, 1000]], np.int16)
    array = padded(tmp_path / "a.dcm", pixels, -2000, modality="CT", intercept=-1024)
    assert array.tolist() == [[-1000, -1000, -974], [-1000, -994, -24]]


@pytest.mark.parametrize(("value", "limit"), [(10, 30), (30, 10)])
def test_padding_may_be_a_range(tmp_path: Path, value: int, limit: int) -> None:
    pixels = np.array([[9, 10, 20], [30, 31, 40]], np.uint16)
    assert padded(tmp_path / "a.dcm", pixels, value, limit).tolist() == [[9, 9, 9], [9, 31, 40]]


def test_padding_of_a_turned_over_image_is_dark_too(tmp_path: Path) -> None:
    pixels = np.array([[4095, 100], [200, 0]], np.uint16)
    turned = padded(tmp_path / "a.dcm", pixels, 0, photometric="MONOCHROME1")
    assert turned.tolist() == [[0, 3995], [3895, 0]]


def test_an_image_of_nothing_but_padding_stays(tmp_path: Path) -> None:
    assert (padded(tmp_path / "a.dcm", np.full((2, 2), 7, np.uint16), 7) == 7).all()


def test_negative_padding_that_is_spelled_without_a_sign(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", array=np.array([[-2000, 5]], np.int16))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.add_new("PixelPaddingValue", "US", 63536)
    dataset.save_as(tmp_path / "a.dcm")
    assert only(READER, tmp_path / "a.dcm").array[0].tolist() == [[5, 5]]


def test_frames_that_are_scaled_differently(tmp_path: Path) -> None:
    array = np.stack([RAMP, RAMP])
    scan = only(
        READER, write_enhanced_dicom(tmp_path / "a.dcm", array, [(0, 0, 0), (0, 0, 2)], scales=[(2, 1), (0.5, 0)])
    )
    assert scan.array.dtype == np.float32
    back = scan.array[0, ::-1, ::-1].transpose(2, 1, 0)  # from RAS+ to (slice, row, column)
    np.testing.assert_allclose(back, np.stack([RAMP * 2.0 + 1, RAMP * 0.5]))


def test_one_plain_file_recompressed_has_equal_values(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", array=LARGE, slope=2, intercept=-3)
    plain = only(READER, tmp_path / "a.dcm").array
    for syntax in (RLELossless, JPEG2000Lossless):
        again = pydicom.dcmread(tmp_path / "a.dcm")
        again.compress(syntax)
        again.save_as(tmp_path / "b.dcm")
        assert (only(READER, tmp_path / "b.dcm").array == plain).all()
