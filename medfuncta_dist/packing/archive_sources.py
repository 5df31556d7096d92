"""The sources of the archive, made one by one from what is on disk about them: as they are listed, and as they are, or
will be, packed.

``fates`` are those of which that differs: renamed and copied sources, and forgotten ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import chain, groupby
from typing import Any, NamedTuple

from medfuncta_dist.archive.changes import Changes
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.recorded_sources import RecordedSources, state_of
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.series_sources import SeriesSources
from medfuncta_dist.packing.sources.source_rows import COLUMNS, source_of
from medfuncta_dist.packing.work_tables import Tables, in_batches, key_bytes, key_text, path_bytes, path_text
from medfuncta_dist.scans.private.forgotten_list import Forgotten

_FILE = ", ".join(f"file.{name}" for name in COLUMNS.split(", "))
_OF_FILE = len(COLUMNS.split(", "))
_LEFT = "number NOT IN (SELECT number FROM fates)"
_SERIES = "substr(n.relative, 1, 1) = x'00'"
"""No path begins so."""


class Left(NamedTuple):
    """A source that is left to pack. ``again``: it was packed before. The rest as in ``Present``."""

    number: int
    again: bool
    files: int
    solid: str
    window: int


@dataclass(frozen=True)
class Watched:
    """Packed sources of one record: as they are listed now (by the key under which they are packed), and the key of
    what a table said of them then (``told``)."""

    record: PackRecord
    sources: dict[str, PackSource] = field(repr=False)
    told: dict[str, str]


class ArchiveSources(Mapping[str, PackSource]):
    """By their keys: the sources as they are listed."""

    def __init__(self, tables: Tables, series: SeriesSources) -> None:
        self._db, self._series = tables, series
        tables.execute("CREATE TABLE fates (number INTEGER PRIMARY KEY, fate TEXT, key BLOB, name BLOB)")
        tables.execute("CREATE INDEX fates_key ON fates (key)")
        tables.execute("CREATE TABLE digests (relative BLOB PRIMARY KEY, content TEXT) WITHOUT ROWID")

    def __getitem__(self, key: str) -> PackSource:
        row = self._db.execute(
            f"SELECT {_FILE} FROM present n LEFT JOIN file USING (relative) WHERE n.key = ?", (key_bytes(key),)
        ).fetchone()
        if row is None:
            raise KeyError(key)
        return next(self._series.sources([key])) if row[0] is None else source_of(row)

    def __iter__(self) -> Iterator[str]:
        return (key_text(key) for (key,) in self._db.execute("SELECT key FROM present ORDER BY number"))

    def __len__(self) -> int:
        return self._count("present")

    def decide(self, changes: Changes, known_as: Mapping[str, str]) -> None:
        """Renamed sources (known_as: by former key, what they are packed as) are packed ones, and copies are none."""
        text = "INSERT OR REPLACE INTO fates SELECT number, ?, ?, ? FROM present WHERE key = ?"
        for key, former in changes.renamed.items():
            name = path_bytes(known_as[former]) if former in known_as else None
            self._db.execute(text, ("renamed", key_bytes(former), name, key_bytes(key)))
        for key in changes.copied:
            self._db.execute(text, ("gone", None, None, key_bytes(key)))

    def leave_out(self, forgotten: Forgotten) -> None:
        """Sources that are recognised by their content, or their key, as forgotten ones are none."""
        text = "INSERT OR REPLACE INTO fates SELECT number, 'gone', NULL, NULL FROM present"
        for batch in in_batches(forgotten.contents):
            marks = ", ".join("?" * len(batch))
            self._db.execute(f"{text} WHERE content IN ({marks})", [*map(key_bytes, batch)])
        for key in forgotten.sources:
            as_packed = "key = ? AND number NOT IN (SELECT number FROM fates) OR number IN (SELECT number FROM fates"
            self._db.execute(f"{text} WHERE {as_packed} WHERE key = ?)", (key_bytes(key), key_bytes(key)))

    @property
    def total(self) -> int:
        """How many are packed, or are to be."""
        return self._count("present WHERE number NOT IN (SELECT number FROM fates WHERE fate = 'gone')")

    @property
    def size(self) -> int:
        """How many bytes those have."""
        text = "SELECT coalesce(sum(bytes), 0) FROM present WHERE number NOT IN"
        return int(self._db.execute(f"{text} (SELECT number FROM fates WHERE fate = 'gone')").fetchone()[0])

    def to_read(self) -> tuple[int, int]:
        """How many sources are left to pack, and how many bytes they have."""
        text = f"SELECT count(*), coalesce(sum(bytes), 0) FROM fresh JOIN present n USING (number) WHERE {_LEFT}"
        number, size = self._db.execute(text).fetchone()
        return number, size

    def left(self, earlier: Iterable[int] = ()) -> Iterator[Left]:
        """The fresh sources, in the order of what they are packed as, which is that in which repair finds them again.
        earlier: records (by number) that no longer count, whose sources were packed before."""
        self._db.execute("CREATE TABLE IF NOT EXISTS earlier (record INTEGER PRIMARY KEY)")
        self._db.executemany("INSERT OR IGNORE INTO earlier VALUES (?)", ((number,) for number in earlier))
        again = "EXISTS (SELECT 1 FROM recorded r WHERE r.key = n.key AND r.record IN (SELECT record FROM earlier))"
        found = f"""number, {again}, n.files, n.solid, n.space FROM fresh CROSS JOIN present n USING (number)
        WHERE {_LEFT}"""
        in_order = f"SELECT n.relative, {found} AND n.name IS NULL AND"
        plain = self._db.execute(f"{in_order} NOT {_SERIES} ORDER BY number")
        series = self._db.execute(f"{in_order} {_SERIES} ORDER BY number")
        named = self._db.execute(f"SELECT n.name AS name, {found} AND n.name IS NOT NULL ORDER BY name")
        for _, number, is_again, files, solid, space in merge(plain, series, named, key=lambda row: row[0]):
            yield Left(number, bool(is_again), files, path_text(solid) if solid else "", space)

    def of_numbers(self, numbers: Iterable[int]) -> tuple[PackSource, ...]:
        """Sources as they are packed."""
        return tuple(map(self.numbered, numbers))

    def numbered(self, number: int) -> PackSource:
        """A source as it is packed."""
        row = self._db.execute(
            f"""SELECT {_FILE}, n.key, n.relative, n.name, n.size, n.version, n.probe, n.content, fate, fates.key,
            fates.name FROM present n LEFT JOIN file USING (relative) LEFT JOIN fates USING (number)
            WHERE n.number = ?""",
            (number,),
        ).fetchone()
        key, relative, name, *state, fate, former, former_name = row[_OF_FILE:]
        if row[0] is None:
            return next(self._series.sources([key_text(key)]))
        name = former_name if fate == "renamed" else name
        return replace(
            source_of(row[:_OF_FILE]),
            key=key_text(former if fate == "renamed" else key),
            relative=path_text(relative if name is None else name),
            state=state_of(state),
        )

    def packed_as(self, keys: Iterable[str]) -> list[PackSource]:
        """Those that are packed under these keys, in the order of what they are packed as."""
        found = [self.numbered(number) for key in keys if (number := self._number(key)) is not None]
        return sorted(found, key=lambda source: source.relative)

    def watched(self, recorded: RecordedSources, everything: bool, renamed: Mapping[str, str]) -> Iterator[Watched]:
        """Packed sources of which the run file, its table or their path may now say something else, by record: where
        they are as they were, those that are watched, or all; and the renamed ones (present → former key)."""
        records = {recorded.number(record): record for record in recorded.settled}
        same = self._db.execute(
            """SELECT p.record, p.key, p.told, n.key FROM recorded p CROSS JOIN present n ON n.key = p.key
            LEFT JOIN fresh USING (number) WHERE p.counts AND changed IS NULL
            AND (? OR p.told <> '' OR p.key IN (SELECT key FROM present WHERE watched)) ORDER BY p.at""",
            (everything,),
        )
        formers = (self._former(key, former) for key, former in renamed.items())
        for number, rows in groupby(chain(same, formers), key=lambda row: row[0]):
            for batch in in_batches(rows):
                now = {key_text(key): self[key_text(present)] for _, key, _, present in batch}
                yield Watched(records[number], now, {key_text(key): key_text(told) for _, key, told, _ in batch})

    def listed(self) -> Iterator[tuple[str, str | None, PackSource]]:
        """Key, the name that it is packed as where that is not its path, and source as listed, of all; they may be
        changed on the way."""
        text = "SELECT number, key, name FROM present WHERE number > ? ORDER BY number LIMIT 1024"
        last = 0
        while found := self._db.execute(text, (last,)).fetchall():
            for _, key, name in found:
                yield key_text(key), None if name is None else path_text(name), self[key_text(key)]
            last = found[-1][0]

    def keep_moved(self, keys: Iterable[str]) -> None:
        """Keep which packed sources are now under another path or URI; of a series, if any of its files is."""
        self._db.execute("CREATE TABLE moved (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.executemany("INSERT OR IGNORE INTO moved VALUES (?)", ((key_bytes(key),) for key in keys))

    def moved(self, recorded: RecordedSources) -> list[PackRecord]:
        """The records of moved sources."""
        text = "SELECT DISTINCT record FROM moved JOIN recorded USING (key) WHERE counts"
        numbers = {number for (number,) in self._db.execute(text)}
        return [record for record in recorded.settled if recorded.number(record) in numbers]

    def keep_digests(self, contents: Mapping[str, str]) -> None:
        """Keep contents (SHA-256), by relative path, until the inventory has them."""
        rows = ((path_bytes(relative), content) for relative, content in contents.items())
        self._db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)

    @property
    def digests(self) -> Mapping[str, str]:
        """The contents that were kept."""
        return _Digests(self._db) if self._count("digests") else {}

    def uris(self, items: bool) -> Mapping[str, str]:
        """URIs by the key under which a source is packed; with ``items``, by ``"<key> <item>"`` too, where an item of a
        DICOM series is a file of its own."""
        return _Uris(self, items)

    def _former(self, key: str, former: str) -> tuple[Any, ...]:
        text = "SELECT record, key, told FROM recorded WHERE key = ? AND counts"
        return *self._db.execute(text, (key_bytes(former),)).fetchone(), key_bytes(key)

    def _number(self, key: str) -> int | None:
        """Of the source that is packed under a key."""
        renamed = self._db.execute("SELECT number FROM fates WHERE key = ?", (key_bytes(key),)).fetchone()
        text = "SELECT number FROM present WHERE key = ? AND number NOT IN (SELECT number FROM fates)"
        row = renamed or self._db.execute(text, (key_bytes(key),)).fetchone()
        return None if row is None else int(row[0])

    def _count(self, of: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {of}").fetchone()[0])


class _OnDisk(Mapping[str, str]):
    """Texts that are only asked for one by one."""

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("they are too many")

    def __len__(self) -> int:
        raise NotImplementedError("they are too many")

    def __contains__(self, key: object) -> bool:
        return self.get(str(key)) is not None


class _Digests(_OnDisk):
    def __init__(self, tables: Tables) -> None:
        self._db = tables

    def __getitem__(self, relative: str) -> str:
        row = self._db.execute("SELECT content FROM digests WHERE relative = ?", (path_bytes(relative),)).fetchone()
        if row is None:
            raise KeyError(relative)
        return str(row[0])


class _Uris(_OnDisk):
    def __init__(self, sources: ArchiveSources, items: bool) -> None:
        self._sources, self._items = sources, items
        self._last, self._uris = "", dict[str, str]()
        """The source that was asked for last: the next scan is often of the same one."""

    def __getitem__(self, text: str) -> str:
        key, _, item = text.partition(" ")
        if key != self._last:
            found = self._sources.packed_as([key])
            self._last, self._uris = key, {"": found[0].uri} if found else {}
            self._uris |= found[0].items if found and self._items else {}
        return self._uris[item]
