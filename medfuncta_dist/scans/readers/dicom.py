"""DICOM: one uncompressed image per file, (row, column) as displayed.

Values are in the modality's units (rescale slope and intercept, or the modality table, applied); MONOCHROME1, where low
is bright, is inverted, so that high is bright in every scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.bounded_file import BoundedFile
from medfuncta_dist.scans.readers.dicom_patient import patient_of, study_of
from medfuncta_dist.scans.readers.reader import Found, check_size, refusing, silence_logger
from medfuncta_dist.scans.scan import Scan, stored

silence_logger("pydicom")

UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
MODALITIES = {"MR": "MR", "CT": "CT", "US": "US"} | dict.fromkeys(("CR", "DX", "MG", "PX", "RF", "XA", "IO"), "XR")
DERIVED = ("SEG", "RTDOSE")  # labels and doses, not scans
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class DicomReader:
    """One image per file. Compressed and multi-frame files are refused."""

    name = "dicom"
    suffixes: tuple[str, ...] = (".dcm", ".dicom", ".ima", "")

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's image."""
        yield _read(path)


def _read(path: Path) -> Found:
    with refusing("not a readable DICOM file"):
        file = BoundedFile(path)
    with file:
        with refusing("not a readable DICOM file"):
            _check_encoding(file)
            _check_image(_dataset(file, stop_before_pixels=True))
        with refusing("the DICOM file's pixels are damaged"):
            dataset = _dataset(file)
            array = _values(dataset)
    with refusing("the DICOM file's geometry is damaged"):
        spacing, affine = _spacing(dataset), _affine(dataset)
        modality = MODALITIES.get(str(dataset.get("Modality")), "OT")
        patient, study = patient_of(dataset), study_of(dataset)
    return Found("", None, Scan(array, spacing, affine, modality), patient, study)


def _check_encoding(file: BoundedFile) -> None:
    """Checked first: pydicom decompresses a deflated file, whatever its size, as soon as it opens it."""
    read_preamble(file, force=False)
    if _read_file_meta_info(file).get("TransferSyntaxUID") not in UNCOMPRESSED:
        raise ScanError("a compressed DICOM file, or one without a transfer syntax", do="decompress it first")


def _dataset(file: BoundedFile, *, stop_before_pixels: bool = False) -> pydicom.Dataset:
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels)


def _check_image(dataset: pydicom.Dataset) -> None:
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ScanError("a DICOM file without an image")
    if dataset.get("Modality") in DERIVED:
        raise ScanError("a DICOM segmentation or dose, not a scan")
    if dataset.get("BurnedInAnnotation") == "YES":
        raise ScanError("text is burned into the DICOM image", do="remove it: it can name the patient")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ScanError("a multi-frame DICOM file", do="split it into one image a file")
    samples = {1: GREY, 3: COLOUR}.get(int(dataset.SamplesPerPixel), ())
    if dataset.get("PhotometricInterpretation") not in samples:
        raise ScanError("a DICOM photometric interpretation that is not read (palette, or unknown)")
    check_size((int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)))


def _values(dataset: pydicom.Dataset) -> np.ndarray:
    """(channel, row, column); colour as RGB."""
    if dataset.BitsAllocated not in (8, 16, 32):
        raise ScanError("a DICOM image of other than 8, 16 or 32 bits")
    pixels = pixel_array(dataset)
    if pixels.ndim == 3:
        return np.ascontiguousarray(np.moveaxis(stored(pixels), -1, 0))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = _inverted(pixels, int(dataset.BitsStored))
    return np.ascontiguousarray(_rescaled(pixels, dataset)[None])


def _inverted(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Reflect in the range of the stored bits; for signed values that is the bitwise complement."""
    if pixels.dtype.kind == "i":
        return np.asarray(np.invert(pixels))
    # No wrap-around: pydicom has cleared what was beyond the stored bits.
    return np.asarray(np.array(2**bits - 1, pixels.dtype) - pixels)


def _rescaled(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """In the modality's units; whole slopes keep integers integers, of 16 bits where they fit (most CT does)."""
    slope, intercept = (_number(dataset, *d) for d in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    if "ModalityLUTSequence" in dataset or not (_is_short(slope) and _is_short(intercept)):
        return stored(np.asarray(apply_modality_lut(pixels, dataset)))
    if (slope, intercept) == (1, 0):
        return stored(pixels)
    values = pixels.astype(np.int64) * int(slope) + int(intercept)
    limits = np.iinfo(np.int16)
    return values.astype(np.int16) if limits.min <= values.min() and values.max() <= limits.max else stored(values)


def _is_short(number: float) -> bool:
    """A whole number that 32-bit pixels can be multiplied with in 64 bits."""
    return number.is_integer() and abs(number) < 2**30


def _number(dataset: pydicom.Dataset, name: str, default: float) -> float:
    """An optional number; the element may be present and empty."""
    value = dataset.get(name)
    return float(default if value is None else value)


def _spacing(dataset: pydicom.Dataset) -> tuple[float, float]:
    """(between rows, between columns) in mm, or 1 where the file does not say."""
    for name in SPACINGS:
        if dataset.get(name):
            between_rows, between_columns = dataset[name].value
            return float(between_rows), float(between_columns)
    return 1.0, 1.0


def _affine(dataset: pydicom.Dataset) -> np.ndarray | None:
    """(row, column, slice, 1) -> RAS mm (DICOM PS3.3 C.7.6.2.1.1, in LPS); None without position and orientation."""
    position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    if not position or not orientation:
        return None
    along_row, down_column = np.array(orientation, np.float64).reshape(2, 3)
    if not _orthonormal(along_row, down_column):
        return None  # anonymisers may leave zeros: no affine is better than a wrong one
    between_rows, between_columns = _spacing(dataset)
    thickness = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 1)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = down_column * between_rows, along_row * between_columns
    affine[:3, 2], affine[:3, 3] = np.cross(along_row, down_column) * abs(thickness), np.array(position, np.float64)
    return LPS_TO_RAS @ affine


def _orthonormal(*directions: Sequence[float] | np.ndarray) -> bool:
    matrix = np.array(directions)
    return bool(np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-3))
