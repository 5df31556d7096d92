"""Sources that are not read: foreign files, second halves of pairs, segmentations, tables beside images. Pure, from
their names alone.

They are counted by reason, and neither packed nor quarantined. Of a file's name, a reason holds at most a suffix of a
known list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.readers.nifti import other_of_pair, values_of_pair
from medfuncta_dist.scans.readers.reader_registry import choices, find_reader
from medfuncta_dist.scans.readers.signals.wfdb_record import WfdbReader
from medfuncta_dist.scans.segmentation import IN_READERS, is_segmentation
from medfuncta_dist.storage.sources import Source

SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"})
SYSTEM = "a file of the system, or an index of others (Thumbs.db, desktop.ini, DICOMDIR)"
ABOUT_FILES = frozenset(
    [
        *(
            "readme",
            "license",
            "licence",
            "copying",
            "notice",
            "citation",
            "authors",
            "changes",
            "changelog",
            "version",
        ),
        *("records", "annotators", "sha256sums", "md5sums", "checksums"),
    ]
)
"""Texts without a suffix, which would be taken for DICOM: BIDS has README and CHANGES, PhysioNet RECORDS."""
ABOUT = "a text about the data set, by its name (README, LICENSE, CHANGES, RECORDS, ...)"
SIGNALS = "a table or a signal by its suffix, where data.shape declares images"
SIGNAL_READERS = frozenset({"ecg-csv", "wfdb"})
HALF = "the header of a pair, which is read with its values"
SEGMENTATION = "a segmentation by its name (data.masks: keep packs it)"
RECORD_INSIDE = "a WFDB record inside an archive file: unpack it"
PAIRED = "a segmentation, kept beside its image"
UNPAIRED = "a segmentation by its name, of no image here"
SEGMENTATION_INSIDE = "a segmentation by its name inside an archive file: unpack it, to pair it with its image"
NAMED = (SYSTEM, SEGMENTATION, SEGMENTATION_INSIDE, ABOUT, SIGNALS)
"""Reasons that do not count for a source which is packed already: earlier versions read these files."""
FOREIGN_SUFFIXES = frozenset(
    [
        *("json", "txt", "pdf", "md", "rst", "html", "htm", "xml", "yaml", "yml", "log", "tsv", "bval", "bvec"),
        *("xls", "xlsx", "doc", "docx", "ppt", "pptx", "mat", "py", "ipynb", "sh", "exe", "db", "ini", "sha256", "md5"),
        *("zip", "tar", "gz", "tgz", "bz2", "7z", "rar", "gif", "webp", "svg", "mp4", "avi", "mov", "npy", "h5", "pt"),
        *("mha", "mhd", "nrrd", "nhdr", "mnc", "brik", "head", "par", "rec", "trk", "tck", "gii", "stl", "vtk"),
        *("dat", "atr", "qrs", "edf", "hdf5", "parquet", "pkl"),
    ]
)
"""Suffixes that may be named: others could be a part of a patient's name."""


def reason_aside(source: Source, data: Data, listed: Collection[str]) -> str | None:
    """Why a source is not read; None where it is, or is refused. ``listed``: the URIs of all sources, in one case of
    letters."""
    if source.refused:
        return None
    name = source.uri.rsplit("/", 1)[-1].lower()
    if name in SYSTEM_FILES:
        return SYSTEM
    reader = find_reader(data.reader, source.uri)
    if reader is None:
        last = name.rpartition(".")[2]
        return f"no reader takes .{last}" if last in FOREIGN_SUFFIXES else "no reader takes its suffix"
    if data.reader is None and name in ABOUT_FILES:
        return ABOUT
    if data.reader is None and reader.name in SIGNAL_READERS and len(data.shape) > 1:
        return SIGNALS
    if reader.name == "nifti" and (other := other_of_pair(source.uri)) is not None:
        values = values_of_pair(source.uri)
        if values == other and other.lower() in listed:
            return HALF
    if data.masks != "keep" and reader.name in IN_READERS and is_segmentation(source.uri):
        return SEGMENTATION_INSIDE if data.masks == "pair" and source.place is not None else SEGMENTATION
    return None


def reason_inside(source: Source, data: Data) -> str:
    """Why a source that is read where it lies loose is refused inside a zip or tar file; "" where it is not."""
    if source.place is None:
        return ""
    reader = find_reader(data.reader, source.uri)
    return RECORD_INSIDE if reader is not None and reader.name == WfdbReader.name else ""


def in_image_format(source: Source) -> bool:
    """Whether a file has a format in which a segmentation looks like an image."""
    reader = find_reader(None, source.uri)
    return reader is not None and reader.name in IN_READERS


def require_some(left: int, aside: Mapping[str, int]) -> None:
    """RunFileError, with the reasons, where every source is set aside."""
    if left or not aside:
        return
    reasons = "\n".join(f"    {count} x {reason}" for reason, count in Counter(aside).most_common())
    raise RunFileError(
        f"none of {sum(aside.values())} source files can be read:\n{reasons}",
        where="data.source",
        do=f"narrow data.source to the scans, or set data.reader: {choices()}",
    )
