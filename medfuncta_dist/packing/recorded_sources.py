"""What the pack records say of each source, on disk. Without that, the records are small enough for the memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.packing.pack_record import PackRecord, StoredPack, each_pack, may_count, settle, whole_pack
from medfuncta_dist.packing.work_tables import Tables, in_batches, key_bytes, key_text
from medfuncta_dist.storage.object_store import ObjectStore

STATE = ("size", "version", "probe", "content")


class RecordedSources:
    """The sources of all records of a data set. Of those that count, a source has one row where ``counts`` is 1.

    ``records`` are all of them, sorted by name, without what they say of each source; ``whole`` has it.
    """

    def __init__(self, tables: Tables, store: ObjectStore | None = None) -> None:
        self._db, self._store = tables, store
        self.records: list[PackRecord] = []
        self.settled: list[PackRecord] = []
        self._numbers: dict[str, int] = {}
        self._paths: dict[str, str] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        """First and last row of each record."""
        tables.execute(
            """CREATE TABLE recorded (at INTEGER PRIMARY KEY, key BLOB, record INTEGER, counts INTEGER, size BLOB,
            version BLOB, probe BLOB, content BLOB, told BLOB)"""
        )

    def read(self, dataset: str) -> None:
        """Read the records of a data set. Of two of one name, the newest counts."""
        assert self._store is not None
        self.add(each_pack(self._store, dataset))

    def add(self, stored: Iterable[StoredPack]) -> None:
        """Add records, in any order."""
        newest: dict[str, StoredPack] = {}
        numbers = count(len(self._numbers))
        for found in stored:
            name = found.record.name
            if name in newest and found.age() < newest[name].age():
                continue
            if name in newest:
                self._db.execute("DELETE FROM recorded WHERE at BETWEEN ? AND ?", self._span(name))
            self._numbers[name], self._paths[name] = next(numbers), found.path
            last = self._db.execute("SELECT coalesce(max(at), 0) FROM recorded").fetchone()[0]
            self._db.executemany(
                "INSERT INTO recorded VALUES (NULL, ?, ?, 1, ?, ?, ?, ?, ?)",
                _rows(found.record, self._numbers[name]),
            )
            self._spans[self._numbers[name]] = last + 1, last + len(found.record.sources)
            newest[name] = found._replace(record=without_sources(found.record))
        self.records = sorted((found.record for found in newest.values()), key=lambda record: record.name)
        self._db.execute("CREATE INDEX IF NOT EXISTS recorded_key ON recorded (key)")

    def clear(self) -> None:
        """Forget all records."""
        self.records, self._numbers = [], {}
        self._db.execute("DELETE FROM recorded")

    def settle(self, first: Sequence[str] = ()) -> list[PackRecord]:
        """The records that count, in order (``pack_record.settle``)."""
        self._keep(may_count(self.records, first))
        # Whether two records share a source depends only on the sources that two records have.
        shared: dict[int, list[str]] = defaultdict(list)
        several = "SELECT key FROM recorded WHERE counts GROUP BY key HAVING count(*) > 1"
        for key, record in self._db.execute(f"SELECT key, record FROM recorded WHERE counts AND key IN ({several})"):
            shared[record].append(key_text(key))
        known = {record.name: record for record in self.records}
        decided = settle((replace(r, sources=shared.get(self._numbers[r.name], ())) for r in self.records), first)
        self.settled = [known[record.name] for record in decided]
        self._keep(self.settled)
        return self.settled

    def whole(self, record: PackRecord) -> PackRecord:
        """A record with all that it says of its sources."""
        assert self._store is not None
        return whole_pack(self._store, self._paths[record.name])

    def holds(self, key: str) -> bool:
        """Whether any record has a source."""
        return self._db.execute("SELECT 1 FROM recorded WHERE key = ?", (key_bytes(key),)).fetchone() is not None

    def with_any(self, keys: Iterable[str]) -> list[PackRecord]:
        """The settled records that have one of these sources."""
        numbers: set[int] = set()
        for batch in in_batches(keys):
            marks = ", ".join("?" * len(batch))
            text = f"SELECT record FROM recorded WHERE counts AND key IN ({marks})"
            numbers |= {number for (number,) in self._db.execute(text, [*map(key_bytes, batch)])}
        return [record for record in self.settled if self._numbers[record.name] in numbers]

    def number(self, record: PackRecord) -> int:
        """The number of a record in the table."""
        return self._numbers[record.name]

    def learn(self, states: Iterable[tuple[str, SourceState]]) -> None:
        """What is known from elsewhere of sources of which the records of earlier versions say nothing."""
        if self._db.execute("SELECT 1 FROM recorded WHERE counts AND size IS NULL").fetchone():
            self._db.executemany(
                "UPDATE recorded SET size = ?, version = ?, probe = ?, content = ? WHERE key = ? AND size IS NULL",
                ((*state_bytes(state), key_bytes(key)) for key, state in states),
            )
            self._db.execute("UPDATE recorded SET size = '', version = '', probe = '', content = '' WHERE size IS NULL")

    def put_other(self, keys: Iterable[str]) -> None:
        """Take packed sources for others than those that are present, whatever these are."""
        self._db.executemany(
            "UPDATE recorded SET size = 'other', version = '', probe = '', content = '' WHERE key = ? AND counts",
            ((key_bytes(key),) for key in keys),
        )

    def _keep(self, counting: Iterable[PackRecord]) -> None:
        kept = {self._numbers[record.name] for record in counting}
        gone = (self._spans[number] for number in self._numbers.values() if number not in kept)
        self._db.executemany("UPDATE recorded SET counts = 0 WHERE at BETWEEN ? AND ?", gone)

    def _span(self, name: str) -> tuple[int, int]:
        return self._spans[self._numbers[name]]


def without_sources(record: PackRecord) -> PackRecord:
    """A record without what it says of each source."""
    return replace(record, sources=(), states={}, blanks={}, instances={}, told={})


def state_bytes(state: SourceState) -> tuple[bytes | str, ...]:
    """A state as it is stored."""
    return tuple(key_bytes(getattr(state, name)) for name in STATE)


def state_of(row: Sequence[bytes | str]) -> SourceState:
    """From ``state_bytes``."""
    return SourceState(*map(key_text, row))


def _rows(record: PackRecord, number: int) -> Iterator[tuple[object, ...]]:
    states: Mapping[str, SourceState] = record.states
    for key in record.sources:
        state = states.get(key)
        yield (
            key_bytes(key),
            number,
            *((None,) * len(STATE) if state is None else state_bytes(state)),
            key_bytes(record.told.get(key, "")),
        )
