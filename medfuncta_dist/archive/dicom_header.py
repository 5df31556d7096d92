"""What a DICOM header says that series are assembled by. Pixels are not read, and nothing is decompressed."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, TypeVar

import pydicom
from pydicom.filereader import _read_file_meta_info, read_partial, read_preamble
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medfuncta_dist.archive.inventory import Row
from medfuncta_dist.archive.plain_header import Value, plain_header, wanted
from medfuncta_dist.archive.source_bytes import FIRST_READ
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.scans.readers.dicom.patient import patient_of
from medfuncta_dist.scans.readers.dicom.segmentation_frames import STORAGE, references_of
from medfuncta_dist.scans.scan_key import KeyMaker

T = TypeVar("T")

NOT_DICOM = "not a readable DICOM file"
DEFLATED = "deflated: its header was not read"
NO_SYNTAX = "no transfer syntax"
NO_PATIENT = "no patient identifier"
NO_SERIES = "no series identifier"
NO_INSTANCE = "no instance identifier"
NO_IMAGE = "no image"
BAD_GEOMETRY = "position, orientation or spacing are damaged"

TAGS: Final = [
    *("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
    *("Modality", "ImageType", "Rows", "Columns", "NumberOfFrames"),
    *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("InstanceNumber", "AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier"),
    *("NominalPercentageOfCardiacPhase", "TriggerTime"),
]
WANTED: Final = wanted(TAGS)
REFERENCES: Final = Tag("ReferencedSeriesSequence")
Header = pydicom.Dataset | Mapping[str, Value]
"""By keyword"""


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress pydicom's warnings and log lines, which can quote a file, in all threads that begin in the block.

    Not in each thread: whichever ended first would end the silence of the others.
    """
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def read_header(file: BinaryIO, keys: KeyMaker) -> Row:
    """The columns of the inventory that a DICOM header fills; ``problems`` are fixed words.

    A file that is not DICOM has a problem and nothing else. MedfunctaError where ``file`` raises it. To be called
    inside ``quiet``.
    """
    try:
        row = _read(file, keys)
    except (MedfunctaError, MemoryError):
        raise
    except Exception:
        return {"problems": [NOT_DICOM]}
    return row | {"refers_to": _referred(file)} if is_segmentation(row) else row


def is_segmentation(row: Row) -> bool:
    """Whether a row of the inventory is of a DICOM segmentation of a kind that is read."""
    return bool(row.get("sop_class") == STORAGE)


def is_whole(row: Row) -> bool:
    """Whether nothing is missing in a row that an earlier version may have written."""
    return not is_segmentation(row) or row["refers_to"] is not None


def _read(file: BinaryIO, keys: KeyMaker) -> Row:
    head = file.read(FIRST_READ)
    if (plain := plain_header(head, len(head) < FIRST_READ, WANTED)) is not None:
        return _columns(plain[1], plain[0], keys)
    file.seek(0)
    syntax = _transfer_syntax(file)
    if syntax == DeflatedExplicitVRLittleEndian:
        return {"transfer_syntax": syntax, "problems": [DEFLATED]}
    file.seek(0)
    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
    return _columns(header, syntax, keys)


def _referred(file: BinaryIO) -> list[str]:
    """The series (UIDs) that a segmentation names; none where that is damaged. What follows is not read: of a large one
    it is megabytes."""
    try:
        file.seek(0)
        return sorted(references_of(read_partial(file, _is_after, specific_tags=[REFERENCES], force=True)).series)
    except (MedfunctaError, MemoryError):
        raise
    except Exception:
        return []


def _is_after(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag > REFERENCES)


def _transfer_syntax(file: BinaryIO) -> str | None:
    """That of the file's meta information, with or without a preamble before it; None where it does not say."""
    read_preamble(file, force=True)
    syntax = _read_file_meta_info(file).get("TransferSyntaxUID")
    return str(syntax) if syntax else None


def _columns(header: Header, syntax: str | None, keys: KeyMaker) -> Row:
    if "SOPClassUID" not in header and "Rows" not in header:  # any bytes can be taken for elements
        return {"problems": [NOT_DICOM]}
    geometry, damaged = _geometry(header)
    patient = _parsed(lambda: patient_of(header))
    row: Row = {
        "patient": keys.group_key("patient", patient) if patient else None,
        "study": _text(header, "StudyInstanceUID"),
        "series": _text(header, "SeriesInstanceUID"),
        "instance": _text(header, "SOPInstanceUID"),
        "sop_class": _text(header, "SOPClassUID"),
        "transfer_syntax": syntax,
        "modality": _text(header, "Modality"),
        "image_type": [str(part) for part in _values(header, "ImageType")] or None,
        "rows": _whole(header, "Rows"),
        "columns": _whole(header, "Columns"),
        "frames": _whole(header, "NumberOfFrames"),
        "instance_number": _whole(header, "InstanceNumber"),
        "acquisition": _text(header, "AcquisitionNumber"),
        "echo": _text(header, "EchoNumbers"),
        "temporal": _text(header, "TemporalPositionIdentifier"),
        "phase": _text(header, "NominalPercentageOfCardiacPhase") or _text(header, "TriggerTime"),
    }
    return row | geometry | {"problems": _problems(row, damaged)}


def _problems(row: Row, damaged: bool) -> list[str]:
    found = {
        NO_SYNTAX: row["transfer_syntax"] is None,
        NO_PATIENT: row["patient"] is None,
        NO_SERIES: row["series"] is None,
        NO_INSTANCE: row["instance"] is None,
        NO_IMAGE: not row["rows"] or not row["columns"],
        BAD_GEOMETRY: damaged,
    }
    return [problem for problem, there in found.items() if there]


def _geometry(header: Header) -> tuple[Row, bool]:
    """In mm, LPS as in the file; and whether something of it is there but no such list of finite numbers."""
    wanted = {
        "orientation": ("ImageOrientationPatient", 6),
        "position": ("ImagePositionPatient", 3),
        "pixel_spacing": ("PixelSpacing", 2),
        "slice_thickness": ("SliceThickness", 1),
        "slice_spacing": ("SpacingBetweenSlices", 1),
    }
    row: Row = {}
    damaged = False
    for column, (name, count) in wanted.items():
        values = _parsed(lambda name=name: [float(value) for value in _values(header, name)])  # type: ignore[misc]
        usable = values is not None and len(values) == count and all(map(math.isfinite, values))
        damaged |= not usable and values != []
        row[column] = (values if count > 1 else values[0]) if usable and values else None
    return row, damaged


def _values(header: Header, name: str) -> Iterable[Any]:
    value = header.get(name)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _text(header: Header, name: str) -> str | None:
    if isinstance(header, dict) and isinstance(value := header.get(name), str):
        return value.strip() or None  # of a plain header, which is ASCII: nearly all, and a survey spends its time here
    joined = _parsed(lambda: "\\".join(str(value).strip() for value in _values(header, name)))
    # What was decoded from damaged bytes need not be valid text.
    return joined.encode("utf-8", "replace").decode() if joined else None


def _whole(header: Header, name: str) -> int | None:
    number = _parsed(lambda: [int(value) for value in _values(header, name)])
    return number[0] if number and abs(number[0]) < 2**62 else None


def _parsed(parse: Callable[[], T]) -> T | None:
    """One element; pydicom parses it when it is asked for, and fails in many ways on a damaged one."""
    try:
        return parse()
    except MemoryError:
        raise
    except Exception:
        return None
