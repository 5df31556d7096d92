"""The content of a compressed file, read forward once, in pieces: memory and growth are bounded."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import Any

from medfuncta_dist.errors import ScanError
from medfuncta_dist.storage.archive_files.place import DAMAGED, TRUNCATED, check_ratio

PIECE = 2**20
LARGEST_DICTIONARY = 2**27
"""Bytes that an xz file may ask for: ``xz -9`` asks for half of that."""
ERRORS = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)


class _Gzip:
    """zlib's decompressor with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, length)

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


class InflatedFile(io.RawIOBase):
    """What a compressed file becomes. Seeking is possible forward only; ``largest`` as in ``RangeFile``.

    ScanError where it is damaged, ends too early, or grows beyond ``place.check_ratio``.
    """

    def __init__(self, file: io.RawIOBase, kind: str, size: int) -> None:
        super().__init__()
        self._file, self._kind, self._compressed = file, kind, size
        self._stream: Any = None
        self._at, self._used, self._ready = 0, 0, b""
        self.largest: int | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Read on to a position that is not before the present one."""
        if whence or offset < self._at:
            raise ScanError(DAMAGED)
        while self._at < offset and self._read(min(PIECE, offset - self._at)):
            pass
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes, fewer only at the end."""
        if size is None or size < 0 or (self.largest is not None and size > self.largest):
            raise ScanError(DAMAGED)
        parts, left = [], size
        while left and (part := self._read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _read(self, length: int) -> bytes:
        if self._used == len(self._ready):
            self._ready, self._used = self._inflated(), 0
            check_ratio(self._at + len(self._ready), self._compressed)
        part = self._ready[self._used : self._used + length]
        self._used, self._at = self._used + len(part), self._at + len(part)
        return part

    def _inflated(self) -> bytes:
        """The next piece; empty at the end of the last stream."""
        try:
            while True:
                if self._stream is None or self._stream.eof:
                    if not (data := self._beginning()):
                        return b""
                    self._stream = _decompressor(self._kind)
                elif self._stream.needs_input:
                    if not (data := self._file.read(PIECE) or b""):
                        raise ScanError(TRUNCATED)
                else:
                    data = b""
                if piece := bytes(self._stream.decompress(data, PIECE)):
                    return piece
        except ERRORS:
            raise ScanError(DAMAGED) from None

    def _beginning(self) -> bytes:
        """The first bytes of the next stream; empty if there is none. Zeros behind a stream are padding."""
        if self._stream is None:
            if not (data := self._file.read(PIECE) or b""):
                raise ScanError(TRUNCATED)
            return data
        left = bytes(self._stream.unused_data).lstrip(b"\0")
        while not left and (data := self._file.read(PIECE) or b""):
            left = data.lstrip(b"\0")
        return left


def _decompressor(kind: str) -> Any:
    if kind == "gz":
        return _Gzip()
    return bz2.BZ2Decompressor() if kind == "bz2" else lzma.LZMADecompressor(memlimit=LARGEST_DICTIONARY)
