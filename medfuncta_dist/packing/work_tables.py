"""Tables on disk: what the pack stage knows of each source while it runs. Ten million sources fit into no driver.

They are one temporary SQLite file in the owner's private folder, because they hold paths. Its name is removed as soon
as it is open: whenever and however the process ends, nothing of it stays.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar, overload

from medfuncta_dist.errors import DiskFullError, StorageError

T = TypeVar("T")
U = TypeVar("U")

PREFIX = ".packing-"
CACHE_KIB = 24 * 1024
"""Of the tables' pages, in memory; the system keeps more of them where there is room."""
BATCH = 2048
"""Rows that are Python objects at once."""

Tables = sqlite3.Connection


@contextmanager
def work_tables(folder: Path | None) -> Iterator[Tables]:
    """An empty database in the private folder, or beside other temporary files; gone at the end of the block."""
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob(f"{PREFIX}*"):
            left.unlink(missing_ok=True)  # of a process that was killed between making its file and opening it
    handle, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
    os.close(handle)
    with _told(Path(name).parent), closing(sqlite3.connect(name, isolation_level=None)) as tables:
        # Nobody else reads it, and nothing of it is needed after an error.
        tables.executescript(
            f"""PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
            PRAGMA secure_delete = OFF; PRAGMA page_size = 8192; PRAGMA cache_size = -{CACHE_KIB};
            CREATE TABLE opened (at); BEGIN;"""
        )
        # What SQLite sorts beside its file holds paths, too. The place counts for this whole process.
        tables.execute(f"PRAGMA temp_store_directory = '{str(Path(name).parent).replace(chr(39), 2 * chr(39))}'")
        Path(name).unlink(missing_ok=True)
        yield tables


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """StorageError in place of SQLite's own, which names no row: most often, the disk is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        kind = DiskFullError if "full" in str(error) else StorageError
        what = f"what is known of the archive's files cannot be kept on disk while packing: {error}"
        raise kind(what, where=str(folder), do="make room there: about 1 GB per million files") from None


def path_bytes(text: str) -> bytes:
    """A path, which need not be valid UTF-8, as bytes that sort as the text does."""
    return text.encode("utf-8", "surrogatepass")


def path_text(data: bytes) -> str:
    """From ``path_bytes``."""
    return data.decode("utf-8", "surrogatepass")


def key_bytes(text: str) -> bytes | str:
    """A key (hex digits) in half the room; any other text as it is."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return text
    return data if data and data.hex() == text else text


def key_text(stored: bytes | str) -> str:
    """From ``key_bytes``."""
    return stored if isinstance(stored, str) else stored.hex()


def in_batches(rows: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The rows, some at a time."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


class Lazy(Sequence[T]):
    """A sequence whose items are made each time they are asked for."""

    def __init__(self, makers: Sequence[Callable[[], T]] = ()) -> None:
        self._makers = makers

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Lazy[T]: ...
    def __getitem__(self, place: int | slice) -> T | Lazy[T]:
        return Lazy(self._makers[place]) if isinstance(place, slice) else self._makers[place]()

    def map(self, change: Callable[[T], U]) -> Lazy[U]:
        """What ``change`` makes of each item, when it is asked for."""
        return Lazy([partial(_changed, make, change) for make in self._makers])

    def __add__(self, other: Lazy[T]) -> Lazy[T]:
        return Lazy([*self._makers, *other._makers])


def _changed(make: Callable[[], T], change: Callable[[T], U]) -> U:
    return change(make())
