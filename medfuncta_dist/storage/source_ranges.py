"""Ranged reads of one source: a local file or an object."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, ScanError, StorageError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_failures import explain, is_machine_failure
from medfuncta_dist.storage.sources import ANONYMOUS_SOURCE

GONE = "the source has disappeared since it was listed"
UNREADABLE = "the file could not be read"

Fetch = Callable[[int, int], bytes]
"""(start, length) -> bytes"""


class Positioned:
    """The position of a file that is made of ranged reads of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self._at = size, 0

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
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at


def fetch_from(uri: str) -> Fetch:
    """Ranged reads of one source. They raise ScanError where the source is to blame, StorageError where storage is."""
    return _from_store(uri) if uri.startswith("s3://") else _from_disk(uri)


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
        except (ObjectMissingError, IntegrityError):  # the other one: it has become shorter
            raise ScanError(GONE) from None
        except StorageError as error:
            raise type(error)(error.what, where=ANONYMOUS_SOURCE, do=error.do) from None

    return fetch


@lru_cache(1024)
def _store(root: str) -> ObjectStore:
    return ObjectStore(root)
