"""What a zip file holds, from the directory at its end: its other bytes are not read."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO, cast

from medfuncta_dist.errors import MedfunctaError, ScanError
from medfuncta_dist.storage.archive_files.place import (
    BOMB,
    DAMAGED,
    ENCRYPTED,
    LARGEST_MEMBER,
    LINK,
    MEMBERS,
    METHOD,
    SPECIAL,
    TOO_LARGE,
    TOO_MANY,
    Entry,
    Place,
    check_ratio,
    hidden,
    plain_name,
    without_repeated,
)
from medfuncta_dist.storage.archive_files.range_file import RangeFile
from medfuncta_dist.storage.source_ranges import Fetch

TAIL = 2**16
"""Bytes that are fetched first, from the end: the directory of a thousand members."""
LARGEST_DIRECTORY = 2**25
HEADER = 30
SLACK = 64
"""Bytes that the header before a member's data may be longer than what the directory says of it: mostly times."""
ENCRYPTION = 0x1 | 0x40 | 0x2000
"""Bits of a member's flags."""


def zip_entries(fetch: Fetch, size: int, uri: str) -> list[Entry]:
    """The members but folders and hidden files, in the order in which they lie.

    ScanError where the directory is damaged, or lists too much. Members that lie in each other make a bomb of any size.
    """
    infos = _directory(fetch, size)
    if len(infos) > MEMBERS:
        raise ScanError(TOO_MANY)
    if any(_end(info) > later.header_offset for info, later in pairwise(infos)):
        raise ScanError(BOMB)
    if infos and _end(infos[-1]) > size:
        raise ScanError(DAMAGED)
    check_ratio(sum(info.file_size for info in infos), size)
    entries = (_entry(info, size, uri) for info in infos if not info.is_dir())
    return without_repeated(entry for entry in entries if not hidden(entry.name))


def _directory(fetch: Fetch, size: int) -> Sequence[zipfile.ZipInfo]:
    file = RangeFile(_with_tail(fetch, size), size)
    file.largest = LARGEST_DIRECTORY
    try:
        with zipfile.ZipFile(cast(BinaryIO, file)) as archive:
            return sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (MedfunctaError, MemoryError):
        raise
    except Exception:
        raise ScanError(DAMAGED) from None


def _with_tail(fetch: Fetch, size: int) -> Fetch:
    """zipfile looks for the directory's end in small steps: one request answers them."""
    begin = max(size - TAIL, 0)
    tail = fetch(begin, size - begin) if size else b""

    def fetched(start: int, length: int) -> bytes:
        if start >= begin:
            return tail[start - begin :][:length]
        return fetch(start, length)

    return fetched


def _end(info: zipfile.ZipInfo) -> int:
    return info.header_offset + HEADER + info.compress_size


def _entry(info: zipfile.ZipInfo, size: int, uri: str) -> Entry:
    name, refused = plain_name(info.orig_filename)
    refused = refused or _refused(info)
    if refused:
        return Entry(name, None, refused)
    lead = HEADER + len(info.orig_filename.encode("utf-8", "replace")) + len(info.extra) + SLACK
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    place = Place(uri, "zip", size, info.header_offset, info.compress_size, info.file_size, info.CRC, deflated, lead)
    return Entry(name, place)


def _refused(info: zipfile.ZipInfo) -> str:
    """Of Unix systems, the upper half of the attributes says what a member is."""
    kind = (info.external_attr >> 28) & 0xF if info.create_system == 3 else 0
    if info.flag_bits & ENCRYPTION:
        return ENCRYPTED
    if kind not in (0, 0o10):
        return LINK if kind == 0o12 else SPECIAL
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return METHOD
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return DAMAGED
    if info.file_size > LARGEST_MEMBER:
        return TOO_LARGE
    try:
        check_ratio(info.file_size, info.compress_size)
    except ScanError as error:
        return error.what
    return ""
