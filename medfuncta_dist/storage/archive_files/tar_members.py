"""What a tar file holds, in one pass from its beginning to its end."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from medfuncta_dist.errors import MedfunctaError, ScanError
from medfuncta_dist.storage.archive_files.inflate import InflatedFile
from medfuncta_dist.storage.archive_files.place import (
    DAMAGED,
    LARGEST_MEMBER,
    LINK,
    MEMBERS,
    SOLID,
    SPARSE,
    SPECIAL,
    TOO_LARGE,
    TOO_MANY,
    TRUNCATED,
    Entry,
    Place,
    hidden,
    plain_name,
)
from medfuncta_dist.storage.archive_files.range_file import RangeFile
from medfuncta_dist.storage.source_ranges import Fetch

LARGEST_HEADER = 2**20
"""Bytes that one header may ask for: a long name, attributes."""
LARGEST_PAX = 1000
"""Attributes that hold for all members."""
BLOCK = tarfile.BLOCKSIZE

Read = Callable[[int], bytes]
"""The next bytes of a member's data, at most so many: fewer at its end."""


class _Watched:
    """The file as tarfile sees it: header reads are bounded, and the last one is kept."""

    def __init__(self, file: RangeFile | InflatedFile) -> None:
        self.file, self.last = file, b""
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        self.file.largest = LARGEST_HEADER
        self.last = self.file.read(size)
        self.file.largest = None
        return self.last


def tar_entries(fetch: Fetch, size: int, uri: str, kind: str) -> Iterator[tuple[Entry, Read]]:
    """The members but folders and hidden files, in order, each with what reads its data until the next one is asked
    for. A name may come twice.

    ScanError at the end where the file does not end as a tar file does: it may be only a part of one.
    """
    raw = RangeFile(fetch, size)
    file = InflatedFile(raw, kind, size) if kind in SOLID else raw
    watched = _Watched(file)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, watched), mode="r:", errors="surrogateescape") as archive:
            count, at = 0, 0
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if (count := count + 1) > MEMBERS:
                    raise ScanError(TOO_MANY)
                if archive.offset <= at or info.size < 0 or len(archive.pax_headers) > LARGEST_PAX:
                    raise ScanError(DAMAGED)  # a negative size leads tarfile back, and round and round
                at = archive.offset
                if info.isdir():
                    continue
                entry = _entry(info, watched.last, size, uri, kind)
                if not hidden(entry.name):
                    yield entry, _reader(file, info)
            _require_end(watched, file)
    except (MedfunctaError, MemoryError):
        raise
    except Exception:
        raise ScanError(DAMAGED) from None


def _require_end(watched: _Watched, file: RangeFile | InflatedFile) -> None:
    """tarfile stops at whatever is no header. A tar ends with blocks of zeros; a compressed one also with a sum of
    all, which is checked when it is reached."""
    if watched.last != bytes(BLOCK):
        raise ScanError(TRUNCATED if len(watched.last) < BLOCK else DAMAGED)
    while isinstance(file, InflatedFile) and file.read(LARGEST_HEADER):
        pass


def _entry(info: tarfile.TarInfo, header: bytes, size: int, uri: str, kind: str) -> Entry:
    name, refused = plain_name(info.name)
    refused = refused or _refused(info)
    if refused:
        return Entry(name, None, refused)
    place = Place(uri, kind, size, info.offset_data - BLOCK, info.size, info.size, zlib.crc32(header))
    return Entry(name, place)


def _refused(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return SPARSE
    if info.issym() or info.islnk():
        return LINK
    if not info.isreg():
        return SPECIAL
    return TOO_LARGE if info.size > LARGEST_MEMBER else ""


def _reader(file: RangeFile | InflatedFile, info: tarfile.TarInfo) -> Read:
    file.seek(info.offset_data)
    left = info.size

    def read(length: int) -> bytes:
        nonlocal left
        data = file.read(min(length, left))
        if len(data) < min(length, left):
            raise ScanError(TRUNCATED)
        left -= len(data)
        return data

    return read
