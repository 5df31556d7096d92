"""All readers, and the choice among them by name or suffix. A new format is one file here and one entry below."""

from __future__ import annotations

from typing import Final

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.readers.dicom import DicomReader
from medfuncta_dist.scans.readers.ecg_csv import EcgCsvReader
from medfuncta_dist.scans.readers.image_file import ImageReader
from medfuncta_dist.scans.readers.medmnist import MedmnistReader
from medfuncta_dist.scans.readers.mgh import MghReader
from medfuncta_dist.scans.readers.nifti import NiftiReader, other_of_pair
from medfuncta_dist.scans.readers.reader import Reader
from medfuncta_dist.scans.readers.tiff import TiffReader

READERS: Final[tuple[Reader, ...]] = (
    NiftiReader(),
    MghReader(),
    DicomReader(),
    ImageReader(),
    TiffReader(),
    MedmnistReader(),
    EcgCsvReader(),
)


def reader_for(name: str | None, uri: str) -> Reader:
    """The reader called ``name``, else the one for the suffix of ``uri``. RunFileError lists the choices."""
    if (reader := find_reader(name, uri)) is not None:
        return reader
    raise RunFileError(
        "no reader knows the suffix of a source", where="data.source", do=f"set data.reader: {choices()}"
    )


def find_reader(name: str | None, uri: str) -> Reader | None:
    """As ``reader_for``; None where no reader knows the suffix."""
    if name is not None:
        return reader_named(name)
    suffix = _suffix(uri)
    return next((reader for reader in READERS if suffix in reader.suffixes), None)


def reader_as_asked(data: Data, uri: str) -> Reader:
    """The reader of a source, set up as the run file asks."""
    reader = reader_for(data.reader, uri)
    if isinstance(reader, NiftiReader | MghReader):
        return type(reader)(None if data.volume == "each" else data.volume)
    if isinstance(reader, TiffReader):
        return TiffReader(stacked=len(data.shape) == 3 or data.slices is not None)
    return reader


def companion(reader: Reader, uri: str) -> str | None:
    """The URI of the other file that the reader needs for this one, beside it: of a pair."""
    return other_of_pair(uri) if isinstance(reader, NiftiReader) else None


def reader_named(name: str) -> Reader:
    """The reader called ``name``. RunFileError lists the choices."""
    for reader in READERS:
        if reader.name == name:
            return reader
    raise RunFileError(f"there is no reader {name!r}", where="data.reader", do=f"choose one of: {choices()}")


def choices() -> str:
    """All readers and their suffixes, for people."""
    return ", ".join(f"{r.name} ({' '.join(s or 'no suffix' for s in r.suffixes)})" for r in READERS)


def _suffix(uri: str) -> str:
    """The longest known suffix of the file's name; "" for a name without one, such as a DICOM UID (1.2.840.10008)."""
    file = uri.rsplit("/", 1)[-1].lower()
    known = [s for reader in READERS for s in reader.suffixes if s and file.endswith(s)]
    last = file.rpartition(".")[2] if "." in file else ""
    return max(known, key=len, default="" if last.isdigit() else last)
