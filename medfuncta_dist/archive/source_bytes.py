"""Bytes of a source without its rest: a file made of ranged reads, and the digest of all."""

from __future__ import annotations

import hashlib
import io

from medfuncta_dist.errors import ScanError
from medfuncta_dist.storage.source_ranges import GONE, UNREADABLE, Fetch, Positioned, fetch_from

__all__ = ["GONE", "UNREADABLE", "Fetch", "HeadFile", "content_digest", "fetch_from"]

SMALL = 2**20
"""Bytes: smaller sources are fetched once, whole, and digested."""
PROBE = 2**16
"""Bytes from the middle of a larger file: equal in copies, different in most others."""
FIRST_READ = 2**16
"""Bytes: most DICOM headers end before that."""
GROWTH = 4
LARGEST_HEADER = 2**24
"""Bytes of one source that are read for its header."""
PIECE = 2**23
"""Bytes that are in memory at once while a whole source is digested."""
TOO_LARGE = "the header is larger than 16 MiB"


def probe_range(size: int) -> tuple[int, int]:
    """(start, length) of a file's probe."""
    length = min(PROBE, size)
    return (size - length) // 2, length


def content_digest(fetch: Fetch, size: int) -> str:
    """SHA-256 (hex) of the first ``size`` bytes, which are all."""
    digest = hashlib.sha256()
    for start in range(0, size, PIECE):
        digest.update(fetch(start, min(PIECE, size - start)))
    return digest.hexdigest()


class HeadFile(Positioned, io.BufferedIOBase):
    """A file for a library that reads its beginning: it fetches 64 KiB, then four times as much each time.

    What the library skips is not fetched. ScanError where it reads more than 16 MiB in all.
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        super().__init__(size)
        self._fetch = fetch
        self._start, self._piece, self._next, self._fetched = 0, b"", FIRST_READ, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        end = self.size if size is None or size < 0 else min(self._at + size, self.size)
        if end <= self._at:
            return b""
        if self._at < self._start or end > self._start + len(self._piece):
            self._cover(end)
        found = self._piece[self._at - self._start : end - self._start]
        self._at += len(found)
        return found

    def _cover(self, end: int) -> None:
        """Fetch from the position to ``end`` and further; what is there already is kept if it is just before it."""
        kept = self._piece[self._at - self._start :] if self._start <= self._at else b""
        start = self._at + len(kept)
        left = LARGEST_HEADER - self._fetched
        if end - start > left:
            raise ScanError(TOO_LARGE)
        length = min(max(end - start, min(self._next, left)), self.size - start)
        self._fetched += length
        self._start, self._piece, self._next = self._at, kept + self._fetch(start, length), self._next * GROWTH
