"""Files of an archive that are no sources, because they belong to one: the signal files, annotations and segments of
WFDB records. A segment would otherwise be packed twice, by itself and in its record, and perhaps into two splits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader_registry import find_reader
from medfuncta_dist.scans.readers.signals.wfdb_header import LARGEST_HEADER, record_files
from medfuncta_dist.scans.readers.signals.wfdb_record import HEADER, WfdbReader
from medfuncta_dist.storage.sources import Source

SEGMENT = re.compile(r".*_(\d{4}|layout)\.hea")
"""What PhysioNet calls the headers of segments. Only where there are such names, other headers are read."""

ReadSource = Callable[[Source], bytes]


def without_parts(sources: Sequence[Source], reader: str | None, read: ReadSource) -> list[Source]:
    """The sources that are scans of their own. ``reader`` as in the run file; ``read`` gives a small source's bytes."""
    headers = [source for source in sources if source.uri.endswith(HEADER)]
    if not headers or reader not in (None, WfdbReader.name):
        return list(sources)
    stems = {source.uri.removesuffix(HEADER) for source in headers}
    segments = _segments(headers, read)
    return [
        source
        for source in sources
        if source.uri not in segments
        and (
            source.uri.endswith(HEADER)
            or _stem(source.uri) not in stems
            or (reader is None and find_reader(None, source.uri))
        )
    ]


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
