"""The bytes of one member of a zip, or of a tar that is not compressed, by ranged reads of its archive file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from medfuncta_dist.errors import ScanError
from medfuncta_dist.storage.archive_files.place import CHANGED, DAMAGED_MEMBER, Place
from medfuncta_dist.storage.archive_files.range_file import FIRST, LARGEST, RangeFile
from medfuncta_dist.storage.source_ranges import Fetch, fetch_from

PIECE = 2**20
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
MAGIC = b"PK\3\4"
BLOCK = 512


class MemberFile:
    """A member, decompressed, read forward; going back begins it again. ``whole``: all of it will be read.

    Its first request fetches header and data together, where they are not larger than 8 MiB. ScanError where the
    archive file is not the one that was listed, or the member is damaged.
    """

    def __init__(self, place: Place, *, whole: bool) -> None:
        end = place.archive_size
        expected = place.lead + place.stored if whole else FIRST
        self._place = place
        self._file = RangeFile(
            _from(fetch_from(place.archive), place.offset), end - place.offset, min(expected, LARGEST)
        )
        self._begin = self._header()
        self._file.size = min(self._file.size, self._begin + place.stored)
        self._at, self._sum, self._ready, self._stream = 0, 0, b"", zlib.decompressobj(wbits=-15)
        self._file.seek(self._begin)

    def fetch(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``: of a stored member only these, of a deflated one all before them too."""
        if not self._place.deflated:
            self._file.seek(self._begin + start)
            return _exactly(self._file.read(length), length)
        if start < self._at:
            self._restart()
        while self._at < start:
            _exactly(self._inflated(min(PIECE, start - self._at)), 1)
        parts = []
        while length and (part := self._inflated(length)):
            parts.append(part)
            length -= len(part)
        return _exactly(b"".join(parts), length + sum(map(len, parts)))

    def pieces(self) -> Iterator[bytes]:
        """All of it, once; its checksum is compared at the end."""
        size, found = self._place.size, 0
        for start in range(0, size, PIECE):
            piece = self.fetch(start, min(PIECE, size - start))
            found = zlib.crc32(piece, found)
            yield piece
        if self._place.kind == "zip" and found != self._place.check:
            raise ScanError(DAMAGED_MEMBER)

    def _header(self) -> int:
        """Where the data begins, behind the header that the listing has seen."""
        if self._place.kind != "zip":
            if zlib.crc32(self._file.read(BLOCK)) != self._place.check:
                raise ScanError(CHANGED)
            return BLOCK
        header = self._file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(MAGIC):
            raise ScanError(CHANGED)
        *_, name, extra = LOCAL_HEADER.unpack(header)
        return LOCAL_HEADER.size + int(name) + int(extra)

    def _restart(self) -> None:
        self._at, self._ready, self._stream = 0, b"", zlib.decompressobj(wbits=-15)
        self._file.seek(self._begin)

    def _inflated(self, length: int) -> bytes:
        """At most so many bytes; none at the end of what the directory declares, or of the data."""
        wanted = min(length, PIECE, self._place.size - self._at)
        while wanted > 0 and not self._stream.eof:
            data = self._stream.unconsumed_tail
            if not data:
                left = self._begin + self._place.stored - self._file.tell()
                data = self._file.read(min(PIECE, left)) if left > 0 else b""
            try:
                piece = self._stream.decompress(data, wanted)
            except zlib.error:
                raise ScanError(DAMAGED_MEMBER) from None
            self._at += len(piece)
            if piece or not data:
                return piece
        return b""


def member_fetch(place: Place) -> Fetch:
    """Ranged reads of a member; one of all its bytes checks them. Opened when first asked."""
    opened: list[MemberFile] = []

    def fetch(start: int, length: int) -> bytes:
        if start == 0 and length == place.size:
            return b"".join(MemberFile(place, whole=True).pieces())
        if not opened:
            opened.append(MemberFile(place, whole=False))
        return opened[0].fetch(start, length)

    return fetch


def copy_member(place: Place, local: Path) -> None:
    """Write a member to a local file. ScanError, StorageError and OSError (of the local disk)."""
    with local.open("wb") as file:
        for piece in MemberFile(place, whole=True).pieces():
            file.write(piece)


def _from(fetch: Fetch, offset: int) -> Fetch:
    return lambda start, length: fetch(offset + start, length)


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) < length:
        raise ScanError(DAMAGED_MEMBER)
    return data
