"""The owner's mapping from keys back to files, and from files to keys: an SQLite database in the private folder.

    mapping.sqlite   source (id, uri) · scan (key, source, item) · pack (name) · absent (source, pack)

URIs are bytes: a file name need not be valid UTF-8. A change is one transaction, so a writer that dies leaves the
mapping as it was. Neither reading nor writing holds more than a batch of rows in memory. Deleted rows are overwritten.

Earlier versions wrote ``mapping.csv``: it is taken over, and removed, when the mapping is first opened.
"""

from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from medfuncta_dist.errors import FormatVersionError, IntegrityError

MAPPING_FILE = "mapping.sqlite"
EARLIER_FILE = "mapping.csv"
FORMAT_VERSION = 1
BATCH = 200_000
"""Rows that are sorted before they are added: keys are random, and sorted ones touch each page of the table once."""
CACHE_KIB = 128 * 1024
"""Of the table's pages, in memory."""
_REPACK = "restore it from a backup, or delete it and pack again"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS source (id INTEGER PRIMARY KEY, uri BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS scan (key BLOB PRIMARY KEY, source INTEGER NOT NULL, item TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS scans_of_source ON scan (source);
CREATE TABLE IF NOT EXISTS pack (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS absent (source TEXT PRIMARY KEY, pack TEXT NOT NULL) WITHOUT ROWID;
"""


class MappingRow(NamedTuple):
    """The scan of a key."""

    key: str
    uri: str
    item: str


class PrivateMapping:
    """An open mapping. Changes count when the ``open_mapping`` block ends without an error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, rows: Iterable[MappingRow | tuple[str, str, str]]) -> None:
        """Add rows, in any order; a key that is already there gets its new row."""
        iterator = iter(rows)
        while batch := [(bytes.fromhex(key), _encoded(uri), item) for key, uri, item in islice(iterator, BATCH)]:
            uris = sorted({uri for _, uri, _ in batch})
            self._db.executemany("INSERT OR IGNORE INTO source (uri) VALUES (?)", ((uri,) for uri in uris))
            numbers = {uri: self._number(uri) for uri in uris}
            placed = sorted((key, numbers[uri], item) for key, uri, item in batch)
            self._db.executemany("INSERT OR REPLACE INTO scan VALUES (?, ?, ?)", placed)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove the rows of keys, and the files that no other key leads to."""
        self._db.executemany("DELETE FROM scan WHERE key = ?", ((bytes.fromhex(key),) for key in keys))
        # Also where files were before they were moved.
        self._db.execute("DELETE FROM source WHERE NOT EXISTS (SELECT 1 FROM scan WHERE scan.source = source.id)")

    def of_beginning(self, digits: str) -> Iterator[MappingRow]:
        """The rows whose key begins with these hex digits."""
        low, high = digits.ljust(64, "0"), digits.ljust(64, "f")
        yield from self._rows("scan.key BETWEEN ? AND ? ORDER BY scan.key", bytes.fromhex(low), bytes.fromhex(high))

    def of_uri(self, uri: str) -> Iterator[MappingRow]:
        """The rows of a file, by its whole URI."""
        yield from self._rows("source.uri = ? ORDER BY scan.key", _encoded(uri))

    def of_part(self, text: str) -> Iterator[MappingRow]:
        """The rows of files whose URI holds this text; every file is looked at."""
        yield from self._rows("instr(source.uri, ?) > 0 ORDER BY scan.key", _encoded(text))

    def packs(self) -> set[str]:
        """Names of the pack records whose rows are here."""
        return {name for (name,) in self._db.execute("SELECT name FROM pack")}

    def packs_with(self, sources: Container[str]) -> set[str]:
        """Names of the pack records of which rows are missing that these sources (keys) could give."""
        return {pack for source, pack in self._db.execute("SELECT source, pack FROM absent") if source in sources}

    def note_pack(self, name: str, absent: Iterable[str]) -> None:
        """The rows of a pack record are here, but those of ``absent`` sources (keys), whose file is not known."""
        self._db.execute("INSERT OR IGNORE INTO pack VALUES (?)", (name,))
        self._db.execute("DELETE FROM absent WHERE pack = ?", (name,))
        self._db.executemany("INSERT OR REPLACE INTO absent VALUES (?, ?)", ((key, name) for key in absent))

    def _number(self, uri: bytes) -> int:
        return int(self._db.execute("SELECT id FROM source WHERE uri = ?", (uri,)).fetchone()[0])

    def _rows(self, where: str, *values: bytes) -> Iterator[MappingRow]:
        columns = "SELECT scan.key, source.uri, scan.item FROM scan JOIN source ON source.id = scan.source WHERE "
        for key, uri, item in self._db.execute(columns + where, values):
            yield MappingRow(key.hex(), uri.decode("utf-8", "surrogateescape"), item)


@contextmanager
def open_mapping(folder: Path) -> Iterator[PrivateMapping]:
    """The mapping of a private folder, for one change or some questions; made here if there is none (0600, and the
    folder 0700). Raises IntegrityError, FormatVersionError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / MAPPING_FILE
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with _readable(path), closing(sqlite3.connect(path, timeout=600, isolation_level=None)) as connection:
        _prepare(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        mapping = PrivateMapping(connection)
        taken_over = _take_over(mapping, folder / EARLIER_FILE)
        yield mapping
        connection.execute("COMMIT")  # without it, closing the connection undoes everything
        if taken_over:
            (folder / EARLIER_FILE).unlink(missing_ok=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"the mapping cannot be used: {error}", where=str(path), do=_REPACK) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    made = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not version and not made:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;")
    elif version != FORMAT_VERSION:
        raise FormatVersionError(
            f"the mapping has an unknown format_version, {version}",
            where=str(path),
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )


def _take_over(mapping: PrivateMapping, path: Path) -> bool:
    """Add the rows of an earlier version's file; whether there is one."""
    if not path.exists():
        return False
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file)
            _check_head(list(islice(rows, 2)), path)
            mapping.add(_earlier_rows(rows, path))
    except (csv.Error, OSError, ValueError) as error:
        raise IntegrityError("the mapping cannot be read", where=str(path), do=_REPACK) from error
    return True


def _check_head(head: Sequence[Sequence[str]], path: Path) -> None:
    if [*head[:1]] != [["format_version", "1"]]:
        raise FormatVersionError(
            "the mapping has an unknown format_version",
            where=str(path),
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if [*head[1:]] != [list(MappingRow._fields)]:
        raise IntegrityError("the mapping is damaged", where=str(path), do=_REPACK)


def _earlier_rows(rows: Iterable[Sequence[str]], path: Path) -> Iterator[MappingRow]:
    for row in rows:
        if len(row) != 3:
            raise IntegrityError("the mapping is damaged", where=str(path), do=_REPACK)
        yield MappingRow(*row)


def _encoded(uri: str) -> bytes:
    return uri.encode("utf-8", "surrogateescape")
