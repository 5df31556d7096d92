"""Preamble, transfer syntax, deflation."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.readers.reader import FREE_BYTES
from tests.unit.scans.archive import PYDICOM, only, reason
from tests.writers import write_dicom

READER = DicomReader()
RAMP = np.arange(20, dtype=np.uint16).reshape(4, 5) * 200


def body(folder: Path, syntax: pydicom.uid.UID) -> bytes:
    """A data set alone."""
    dataset = pydicom.dcmread(write_dicom(folder / "plain.dcm", array=RAMP))
    if not syntax.is_little_endian:
        dataset.PixelData = RAMP.byteswap().tobytes()
    out = DicomIO(io.BytesIO())
    out.is_implicit_VR, out.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(out, dataset)
    return out.parent.getvalue()


def meta(**elements: object) -> bytes:
    """File meta information with these elements, without a preamble."""
    group = pydicom.dataset.FileMetaDataset()
    for name, value in elements.items():
        setattr(group, name, value)
    out = io.BytesIO()
    write_file_meta_info(DicomIO(out), group, enforce_standard=False)
    return out.getvalue()


def written(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
PREAMBLE = bytes(128) + b"DICM"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_without_preamble_and_meta_information(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    assert (only(READER, written(tmp_path / "IMa", body(tmp_path, syntax))).array[0] == RAMP).all()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_without_preamble(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    path = written(tmp_path / "IMa", meta(TransferSyntaxUID=syntax), body(tmp_path, syntax))
    assert (only(READER, path).array[0] == RAMP).all()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_without_a_transfer_syntax(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    path = written(tmp_path / "IMa", PREAMBLE, meta(MediaStorageSOPClassUID="1.2.3"), body(tmp_path, syntax))
    assert (only(READER, path).array[0] == RAMP).all()


def test_compressed_pixels_without_a_transfer_syntax_are_refused_for_that_reason(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(PYDICOM / "MR_small_RLE.dcm")
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert reason(READER, tmp_path / "a.dcm").endswith(
        "does not say how its pixels are compressed (no transfer syntax)"
    )


@pytest.mark.parametrize("data", [b"", b"DICM", b"PATIENT: Doe^Jane " * 30, b"\x08\x00", b"\x08\x00" + b"\xff" * 300])
def test_other_files_are_not_dicom(tmp_path: Path, data: bytes) -> None:
    assert reason(READER, written(tmp_path / "IM1", data)) in (
        "not a readable DICOM file",
        "a DICOM file without an image",
    )


def deflated(data: bytes) -> bytes:
    deflation = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflation.compress(data) + deflation.flush()


DEFLATED = PREAMBLE, meta(TransferSyntaxUID=DeflatedExplicitVRLittleEndian)


def test_deflated(tmp_path: Path) -> None:
    plain = body(tmp_path, ExplicitVRLittleEndian)
    assert (only(READER, written(tmp_path / "IMa", *DEFLATED, deflated(plain))).array[0] == RAMP).all()
    assert (only(READER, written(tmp_path / "IMb", *DEFLATED, deflated(plain), b"\0")).array[0] == RAMP).all()
    assert "cut off" in reason(READER, written(tmp_path / "IMc", *DEFLATED, deflated(plain)[:-9]))


def test_a_deflated_bomb_is_inflated_no_further_than_allowed(tmp_path: Path) -> None:
    bomb = written(tmp_path / "IMa", *DEFLATED, deflated(bytes(FREE_BYTES + 2**22)))
    assert reason(READER, bomb).endswith("a decompression bomb")
