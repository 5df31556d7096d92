"""The headers of WFDB records (PhysioNet), read for the names of the files that belong to a record. Pure.

A header is text: a record line, then a line per signal file's signal, or per segment. Names are plain, so that no
header can point out of its folder. Comments, which hold age, sex and diagnoses, are never read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medfuncta_dist.errors import ScanError

NOT_WFDB = "not a readable WFDB header"
LARGEST_HEADER = 2**22
"""Bytes: room for a hundred thousand segments."""
RECORD = re.compile(r"\s*[-\w]+(/\d+)?\s+(\d+)")
FILE = re.compile(r"[-\w]+(\.\w+)?")
LAYOUT = re.compile(r"\s*[-\w]+\s+0+\s*")
"""The line of a layout segment."""
NONE = "~"
"""In place of a name: a gap, or a signal without samples."""


@dataclass(frozen=True)
class RecordFiles:
    """What belongs to a record beside its header: signal files, or the names of segments (records too)."""

    signals: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    gap: bool = False
    """Whether a gap stands among segments of a fixed layout, of which each must hold all signals (WFDB Programmer's
    Guide, 5.5): gaps need a layout segment, which is the first one and has no samples."""


def record_files(data: bytes) -> RecordFiles:
    """The files that a header names. ScanError for what is none."""
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip() and not _is_comment(line)]
    start = RECORD.match(lines[0]) if lines else None
    if start is None:
        raise ScanError(NOT_WFDB)
    parts = int(start.group(1)[1:]) if start.group(1) else int(start.group(2))
    named = [line.split()[0] for line in lines[1 : parts + 1]]
    if len(named) != parts:
        raise ScanError("a WFDB header that is cut off")
    names = tuple(dict.fromkeys(name for name in named if name != NONE))
    if not all(FILE.fullmatch(name) for name in names):
        raise ScanError("a WFDB header with a file name that is not plain")
    if not start.group(1):
        return RecordFiles(signals=names)
    return RecordFiles(segments=names, gap=NONE in named and LAYOUT.fullmatch(lines[1]) is None)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")
