"""The archive's files on disk, as the run file's patterns name them, with the members of its zip and tar files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from medfuncta_dist.archive.member_lists import ReaderOf, opened
from medfuncta_dist.packing.work_tables import Tables, in_batches, path_bytes, path_text
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.archive_files.place import Place, kind_of
from medfuncta_dist.storage.sources import Source, matching, once, require_distinct

COLUMNS = "relative, uri, size, version, more"
_TABLE = """CREATE TABLE {name} (relative BLOB, uri BLOB, size INTEGER, version TEXT, more TEXT,
PRIMARY KEY (relative, uri)) WITHOUT ROWID"""
_KINDS = ("loose", "bundle")
"""Tables: of files and members, and of zip and tar files until they are opened."""

FileRow = tuple[bytes, bytes, int, str, str | None]


class FileList:
    """Files in the order of their relative paths; iterated over again and again, and only so."""

    def __init__(self, tables: Tables) -> None:
        self._db = tables
        for name in _KINDS:
            tables.execute(_TABLE.format(name=name))

    def fill(self, patterns: str | list[str]) -> None:
        """Add what the patterns match, each file once. RunFileError as ``expand`` raises it."""
        several = [patterns] if isinstance(patterns, str) else patterns
        if len(several) > 1:
            for name in _KINDS:
                self._db.execute(f"CREATE UNIQUE INDEX once_in_{name} ON {name} (uri)")
        for pattern in several:
            for batch in in_batches(matching(pattern)):
                self._add(batch if len(several) == 1 else map(self._with_earlier, batch))
        for name in _KINDS:
            twice = f"SELECT count(*) - 1 AS more FROM {name} GROUP BY relative HAVING more > 0"
            require_distinct(self._db.execute(f"SELECT coalesce(sum(more), 0) FROM ({twice})").fetchone()[0])

    def open_archives(self, reader_of: ReaderOf, folder: Path | None, keys: KeyMaker) -> None:
        """Put members in the place of zip and tar files, but for those that are refused."""
        found = map(file_of, self._db.execute(f"SELECT {COLUMNS} FROM bundle ORDER BY relative, uri"))
        for members in opened(found, reader_of, folder, keys):
            self._insert("loose", map(row_of, members))
        self._db.execute("DELETE FROM bundle")

    def clear(self) -> None:
        """Remove all files."""
        for name in _KINDS:
            self._db.execute(f"DELETE FROM {name}")
            self._db.execute(f"DROP INDEX IF EXISTS once_in_{name}")

    def below(self, root: str) -> int:
        """How many files lie in a folder."""
        start = path_bytes(f"{root}/")
        found = (f"SELECT count(*) FROM {name} WHERE substr(uri, 1, ?) = ?" for name in _KINDS)
        return sum(self._db.execute(text, (len(start), start)).fetchone()[0] for text in found)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM loose").fetchone()[0])

    def __iter__(self) -> Iterator[Source]:
        return map(file_of, self._db.execute(f"SELECT {COLUMNS} FROM loose ORDER BY relative, uri"))

    def ending(self, suffixes: Iterable[str]) -> Iterator[Source]:
        """Files with one of these suffixes, in lower or upper case."""
        either = " OR ".join(f"lower(CAST(substr(uri, -{len(suffix)}) AS TEXT)) = '{suffix}'" for suffix in suffixes)
        return map(file_of, self._db.execute(f"SELECT {COLUMNS} FROM loose WHERE {either} ORDER BY relative, uri"))

    def of_relative(self, relative: str) -> Source | None:
        """The file of a path."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM loose WHERE relative = ?", (path_bytes(relative),)).fetchone()
        return file_of(row) if row else None

    def _add(self, sources: Iterable[Source]) -> None:
        rows: dict[str, list[FileRow]] = {name: [] for name in _KINDS}
        for source in sources:
            rows["bundle" if kind_of(source.uri) else "loose"].append(row_of(source))
        for name, of_kind in rows.items():
            self._insert(name, sorted(of_kind, key=lambda row: row[:2]))

    def _insert(self, name: str, rows: Iterable[FileRow]) -> None:
        self._db.executemany(f"INSERT OR REPLACE INTO {name} VALUES (?, ?, ?, ?, ?)", rows)

    def _with_earlier(self, source: Source) -> Source:
        name = "bundle" if kind_of(source.uri) else "loose"
        row = self._db.execute(f"SELECT {COLUMNS} FROM {name} WHERE uri = ?", (path_bytes(source.uri),)).fetchone()
        return once(file_of(row) if row else source, source)


def row_of(source: Source) -> FileRow:
    """A row of the table."""
    more: dict[str, Any] = {"place": place_list(source.place)} if source.place else {}
    more |= {"refused": source.refused} if source.refused else {}
    more |= {"globs": source.globs} if source.globs else {}
    text = json.dumps(more) if more else None
    return path_bytes(source.relative), path_bytes(source.uri), source.size, source.version, text


def file_of(row: Sequence[Any]) -> Source:
    """From ``row_of``."""
    relative, uri, size, version, text = row
    found = Source(path_text(uri), path_text(relative), size, version)
    if text is None:
        return found
    more = json.loads(text)
    return replace(
        found,
        place=place_of(more["place"]) if "place" in more else None,
        refused=more.get("refused", ""),
        globs=tuple(more.get("globs", ())),
    )


def place_list(place: Place) -> list[Any]:
    """A place in JSON."""
    return [getattr(place, field.name) for field in fields(Place)]


def place_of(values: Sequence[Any]) -> Place:
    """From ``place_list``."""
    return Place(*values)
