"""Files of an archive that are no sources, because they belong to one: the signal files, annotations and segments of
WFDB records. A segment would otherwise be packed twice, by itself and in its record, and perhaps into two splits.

Records, and pairs of NIfTI files, are compared by all their files: equal headers can have other values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from medfuncta_dist.archive.source_bytes import content_digest, fetch_from
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.nifti import other_of_pair, values_of_pair
from medfuncta_dist.scans.readers.reader_registry import find_reader
from medfuncta_dist.scans.readers.signals.wfdb_header import LARGEST_HEADER, record_files
from medfuncta_dist.scans.readers.signals.wfdb_record import HEADER, WfdbReader
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.sources import Source

SEGMENT = re.compile(r".*_(\d{4}|layout)\.hea")
"""What PhysioNet calls the headers of segments. Only where there are such names, other headers are read."""

OF_SEGMENT = re.compile(r"_(\d{4}|layout)$")
ReadSource = Callable[[Source], bytes]


def stand_alone(headers: Sequence[Source], reader: str | None, read: ReadSource) -> Callable[[Source], bool]:
    """What tells whether a source is a scan of its own. ``headers``: all that are called like those of WFDB records;
    ``reader`` as in the run file; ``read`` gives a small source's bytes."""
    if not headers or reader not in (None, WfdbReader.name):
        return lambda source: True
    stems = {source.uri.removesuffix(HEADER) for source in headers}
    segments = _segments(headers, read)
    return lambda source: (
        source.uri not in segments
        and (
            source.uri.endswith(HEADER)
            or _stem(source.uri) not in stems
            or bool(reader is None and find_reader(None, source.uri))
        )
    )


def files_beside(
    sources: Iterable[Source], listed: Iterable[Source], data: Data
) -> dict[str, tuple[Source, ...] | None]:
    """By URI of a source that has other files: these, or None where none is listed. ``listed``: all files. Both are
    iterated over again."""
    several = {s.uri for s in sources if (kind := find_reader(data.reader, s.uri)) and _has_others(kind.name, s.uri)}
    if not several:
        return {}
    records = {_record(uri).lower() for uri in several}
    kept = {source.uri for source in sources if _record(source.uri).lower() in records}
    alone = defaultdict(list)
    for file in listed:
        if (record := _record(file.uri).lower()) in records and (file.uri not in kept or other_of_pair(file.uri)):
            alone[record].append(file)
    return {uri: tuple(f for f in alone[_record(uri).lower()] if f.uri != uri) or None for uri in several}


def record_content(files: Sequence[tuple[str, int]], keys: KeyMaker) -> str:
    """The content of a source of several files (URI, bytes), in this order; "" where one cannot be read."""
    try:
        return keys.property_key("contents", *(content_digest(fetch_from(uri), size) for uri, size in files))
    except ScanError:
        return ""


def _has_others(reader: str, uri: str) -> bool:
    return reader == WfdbReader.name or (reader == "nifti" and other_of_pair(uri) is not None)


def _record(uri: str) -> str:
    """The path that a record's files share: segments have a number after it, as PhysioNet names them."""
    if other_of_pair(uri) is not None:
        return values_of_pair(uri)
    return OF_SEGMENT.sub("", _stem(uri))


def _stem(uri: str) -> str:
    folder, _, name = uri.rpartition("/")
    return f"{folder}/{name.rpartition('.')[0]}"


def _segments(headers: Sequence[Source], read: ReadSource) -> set[str]:
    """The URIs of headers that another header in their folder lists as its segments."""
    folders = defaultdict(list)
    for header in headers:
        folders[header.uri.rpartition("/")[0]].append(header)
    found: set[str] = set()
    for folder, here in folders.items():
        if any(SEGMENT.fullmatch(header.uri) for header in here):
            masters = [header for header in here if not SEGMENT.fullmatch(header.uri) and header.size <= LARGEST_HEADER]
            found |= {f"{folder}/{name}{HEADER}" for header in masters for name in _listed(read(header))}
    return found


def _listed(data: bytes) -> tuple[str, ...]:
    try:
        return record_files(data).segments
    except ScanError:
        return ()  # a damaged header: it is quarantined when it is read
