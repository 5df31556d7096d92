"""Bytes of a source without its rest: ranged reads, of a local file or of an object, and a file made of them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from medfuncta_dist.errors import ObjectMissingError, ScanError, StorageError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_failures import explain, is_machine_failure
from medfuncta_dist.storage.sources import ANONYMOUS_SOURCE

FIRST_READ = 2**16
"""Bytes: most DICOM headers end before that."""
GROWTH = 4
LARGEST_HEADER = 2**24
"""Bytes of one source that are read for its header."""
PIECE = 2**23
"""Bytes that are in memory at once while a whole source is digested."""
GONE = "the source has disappeared since it was listed"
UNREADABLE = "the file could not be read"
TOO_LARGE = "the header is larger than 16 MiB"

Fetch = Callable[[int, int], bytes]
"""(start, length) -> bytes"""


def fetch_from(uri: str) -> Fetch:
    """Ranged reads of one source. They raise ScanError where the source is to blame, StorageError where storage is."""
    return _from_store(uri) if uri.startswith("s3://") else _from_disk(uri)


def content_digest(fetch: Fetch, size: int) -> str:
    """SHA-256 (hex) of the first ``size`` bytes, which are all."""
    digest = hashlib.sha256()
    for start in range(0, size, PIECE):
        digest.update(fetch(start, min(PIECE, size - start)))
    return digest.hexdigest()


class HeadFile(io.BufferedIOBase):
    """A file for a library that reads its beginning: it fetches 64 KiB, then four times as much each time.

    What the library skips is not fetched. ScanError where it reads more than 16 MiB in all.
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0
        self._start, self._piece, self._next, self._fetched = 0, b"", FIRST_READ, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position, also one behind the end."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
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
        length = min(max(end - start, min(self._next, left)), self._size - start)
        self._fetched += length
        self._start, self._piece, self._next = self._at, kept + self._fetch(start, length), self._next * GROWTH


def _from_disk(uri: str) -> Fetch:
    def fetch(start: int, length: int) -> bytes:
        try:
            with Path(uri).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, start)
        except FileNotFoundError:
            raise ScanError(GONE) from None
        except OSError as error:
            if is_machine_failure(error):
                raise explain(error, ANONYMOUS_SOURCE) from None
            raise ScanError(UNREADABLE) from None
        if len(data) != length:
            raise ScanError(GONE)
        return data

    return fetch


def _from_store(uri: str) -> Fetch:
    folder, _, name = uri.rpartition("/")

    def fetch(start: int, length: int) -> bytes:
        try:
            return _store(folder).read_range(name, start, length)
        except ObjectMissingError:
            raise ScanError(GONE) from None
        except StorageError as error:
            raise type(error)(error.what, where=ANONYMOUS_SOURCE, do=error.do) from None

    return fetch


@lru_cache(1024)
def _store(root: str) -> ObjectStore:
    return ObjectStore(root)
