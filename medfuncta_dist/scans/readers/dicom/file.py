"""A DICOM file's data set, with or without preamble and transfer syntax, deflated or not.

The standard's default (PS3.5, 10.1) is little endian with implicit value representations. Files without a transfer
syntax also come with explicit ones and in big endian; their first element tells (pydicom looks at it).
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.filebase import DicomIO
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.bounded_file import BoundedFile
from medfuncta_dist.scans.readers.reader import FREE_BYTES, LARGEST_RATIO, check_inflation
from medfuncta_dist.scans.scan import MAX_VALUES

NOT_DICOM = "not a readable DICOM file"
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""Of files without a preamble: file meta information or the data set's group 8, in either byte order."""
LARGEST_INFLATED = 8 * MAX_VALUES
NATIVE = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
"""Transfer syntaxes by (implicit value representations, little endian)."""


def opened(path: Path) -> BinaryIO:
    """The file, read only; a deflated one is inflated into memory, within the limits of ``check_inflation``.

    pydicom inflates a file, whatever its size, as soon as it opens it. Raises ScanError; not for what a library says.
    """
    file = BoundedFile(path)
    try:
        if read_preamble(file, force=True) is None:
            _check_start(file)
        meta = _read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return file
        inflated = _inflated(file.read())
    except BaseException:
        file.close()
        raise
    file.close()
    return _explicit(meta, inflated)


def read_dataset(file: BinaryIO, *, stop_before_pixels: bool = False) -> pydicom.Dataset:
    """The file's data set, with a transfer syntax also where the file has none."""
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise ScanError("a DICOM file that does not say how its pixels are compressed (no transfer syntax)")
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = NATIVE[bool(implicit), bool(little)]
    return dataset


def _check_start(file: BinaryIO) -> None:
    if file.read(2) not in FIRST_GROUPS:
        raise ScanError(NOT_DICOM)
    file.seek(0)


def _inflated(data: bytes) -> bytes:
    limit = min(max(FREE_BYTES, LARGEST_RATIO * len(data)), LARGEST_INFLATED)
    inflation = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflation.decompress(data, limit + 1)
    if len(inflated) > limit:
        check_inflation(len(inflated), len(data))
        raise ScanError(f"a deflated DICOM file that becomes more than {limit} bytes")
    if not inflation.eof:
        raise ScanError("a deflated DICOM file that is cut off")
    return inflated


def _explicit(meta: pydicom.dataset.FileMetaDataset, inflated: bytes) -> BinaryIO:
    """The same file as if it had never been deflated."""
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    file.write(bytes(128) + b"DICM")
    write_file_meta_info(DicomIO(file), meta, enforce_standard=False)
    file.write(inflated)
    return file
