"""All readers, and the choice among them by name or suffix. A new format is one file here and one entry below."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.readers.image_file import ImageReader
from medfuncta_dist.scans.readers.medmnist import MedmnistReader
from medfuncta_dist.scans.readers.mgh import MghReader
from medfuncta_dist.scans.readers.nifti import NiftiReader
from medfuncta_dist.scans.readers.reader import Reader
from medfuncta_dist.scans.readers.signals.ecg_csv import EcgCsvReader
from medfuncta_dist.scans.readers.signals.ecg_dicom import EcgDicomReader
from medfuncta_dist.scans.readers.signals.wfdb_record import WfdbReader
from medfuncta_dist.scans.readers.tiff import TiffReader
from medfuncta_dist.storage.sources import Parts

READERS: Final[tuple[Reader, ...]] = (
    NiftiReader(),
    MghReader(),
    DicomReader(),
    ImageReader(),
    TiffReader(),
    MedmnistReader(),
    EcgCsvReader(),
    WfdbReader(),
    EcgDicomReader(),
)


@runtime_checkable
class Configurable(Protocol):
    """A reader to which the run file says more than its name."""

    def for_data(self, data: Data) -> Reader:
        """The reader that follows this run file's section."""
        ...


@runtime_checkable
class OfSeveralFiles(Protocol):
    """A reader whose sources have files beside them that belong to them."""

    def parts(self, path: Path) -> list[str]:
        """The files that belong to a source, as ``storage.sources.Parts`` names them."""
        ...


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


def configured_reader(data: Data, uri: str) -> Reader:
    """The reader of a source, as the run file's section has it."""
    reader = reader_for(data.reader, uri)
    return reader.for_data(data) if isinstance(reader, Configurable) else reader


def parts_of(reader: Reader) -> Parts:
    """What tells the files that belong to a source of this reader."""
    return reader.parts if isinstance(reader, OfSeveralFiles) else lambda path: ()


def reader_named(name: str) -> Reader:
    """The reader called ``name``. RunFileError lists the choices."""
    for reader in READERS:
        if reader.name == name:
            return reader
    raise RunFileError(f"there is no reader {name!r}", where="data.reader", do=f"choose one of: {choices()}")


def choices() -> str:
    """All readers and their suffixes, for people."""
    suffixes = {r.name: " ".join(s or "no suffix" for s in r.suffixes) or "only by name" for r in READERS}
    return ", ".join(f"{name} ({known})" for name, known in suffixes.items())


def _suffix(uri: str) -> str:
    """The longest known suffix of the file's name; "" for a name without one, such as a DICOM UID (1.2.840.10008)."""
    file = uri.rsplit("/", 1)[-1].lower()
    if file.endswith(_known_suffixes()):
        return next(suffix for suffix in _known_suffixes() if file.endswith(suffix))
    last = file.rpartition(".")[2] if "." in file else ""
    return "" if last.isdigit() else last


@cache
def _known_suffixes() -> tuple[str, ...]:
    """The longest first."""
    return tuple(sorted({s for reader in READERS for s in reader.suffixes if s}, key=len, reverse=True))
