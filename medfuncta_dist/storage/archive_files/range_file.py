"""A seekable file made of ranged reads, for whatever reads forward and skips."""

from __future__ import annotations

import io

from medfuncta_dist.errors import ScanError
from medfuncta_dist.storage.archive_files.place import DAMAGED
from medfuncta_dist.storage.source_ranges import Fetch, Positioned

FIRST = 2**16
"""Bytes of the first request, and of the one after a skip: a reader that skips wants a header."""
LARGEST = 2**23
GROWTH = 4
"""What is read through is fetched in pieces that grow up to LARGEST bytes."""


class RangeFile(Positioned, io.RawIOBase):
    """``largest``, if set, is the most bytes that one read may ask for (ScanError): libraries believe headers."""

    def __init__(self, fetch: Fetch, size: int, first: int = FIRST) -> None:
        super().__init__(size)
        self._fetch = fetch
        self._start, self._piece, self._first, self._next = 0, b"", first, first
        self.largest: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        left = max(self.size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        if self.largest is not None and length > self.largest:
            raise ScanError(DAMAGED)
        parts = []
        while length:
            part = self._some(length)
            parts.append(part)
            self._at, length = self._at + len(part), length - len(part)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _some(self, length: int) -> bytes:
        end = self._start + len(self._piece)
        if not self._start <= self._at < end:
            self._next = min(self._next * GROWTH, LARGEST) if self._piece and self._at == end else self._first
            wanted = min(max(length, self._next), max(LARGEST, self._first), self.size - self._at)
            self._start, self._piece = self._at, self._fetch(self._at, wanted)
        begin = self._at - self._start
        return self._piece[begin : begin + length]
