"""The sources that the archive holds now, on disk, and what has become of those that are packed: archive/changes.py,
where there are too many sources for the memory.

A source is fresh if it is not packed, or has other bytes than when it was. All questions are about these; those that
are as they were are only counted. What may be renamed, copied, changed or removed becomes Python objects, for
``compare``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from medfuncta_dist.archive.changes import Changes, SourceState, compare
from medfuncta_dist.packing.recorded_sources import RecordedSources, state_bytes, state_of
from medfuncta_dist.packing.work_tables import Tables, key_bytes, key_text, path_bytes, path_text
from medfuncta_dist.scans.scan_key import KeyMaker

_STATE = "{0}.size, {0}.version, {0}.probe, {0}.content"
_UNKNOWN = "p.size = '' AND p.version = '' AND p.probe = '' AND p.content = ''"
_DIFFERS = f"""NOT ({_UNKNOWN}) AND (p.size <> n.size OR p.version <> n.version)
AND (p.content = '' OR p.content <> n.content)"""
"""As ``archive.changes`` says it."""
_AS_PACKED = "JOIN recorded p ON p.key = n.key AND p.counts"
_GONE = "p.counts AND NOT EXISTS (SELECT 1 FROM present n WHERE n.key = p.key)"
_FRESH = f"""INSERT INTO fresh SELECT n.number, p.key IS NOT NULL FROM present n LEFT {_AS_PACKED}
WHERE (p.key IS NULL OR ({_DIFFERS}))"""


class Present(NamedTuple):
    """A source of the archive; of a series, ``relative`` is its identity."""

    relative: str
    key: str
    state: SourceState
    size: int
    """Bytes."""
    name: str | None = None
    """What it is packed as, where that is not its path."""
    kind: str = ""
    """Of its probe, where only some others have one of that kind: an ETag, a checksum of a zip."""
    by_etag: bool = False
    """Another probe does not prove other bytes."""
    watched: bool = False
    """The run file may say something else of it than when it was packed."""
    files: int = 1
    solid: str = ""
    """The compressed tar that must be read for it."""
    window: int = 0
    """Bytes that it takes beside others of that tar."""


class PresentSources:
    """Present sources, numbered in the order in which they are added."""

    def __init__(self, tables: Tables) -> None:
        self._db = tables
        tables.execute(
            """CREATE TABLE present (number INTEGER PRIMARY KEY, relative BLOB, key BLOB, size BLOB, version BLOB,
            probe BLOB, content BLOB, bytes INTEGER, name BLOB, kind TEXT, by_etag INTEGER, watched INTEGER,
            files INTEGER, solid BLOB, space INTEGER)"""
        )
        for table in ("fresh (number INTEGER PRIMARY KEY, changed INTEGER)", "unsure (number INTEGER PRIMARY KEY)"):
            tables.execute(f"CREATE TABLE {table}")

    def add(self, sources: Iterable[Present]) -> None:
        """Add sources."""
        marks = ", ".join("?" * 14)
        self._db.executemany(f"INSERT INTO present VALUES (NULL, {marks})", map(_row_of, sources))

    def mend_names(self, keys: KeyMaker) -> dict[str, str]:
        """A new file at the path that a renamed one had needs a name of its own: these, by relative path. To be called
        when all files are there, and no series."""
        taken = "SELECT name FROM present WHERE name IS NOT NULL"
        rows = self._db.execute(
            f"SELECT number, relative, content, version FROM present WHERE name IS NULL AND relative IN ({taken})"
        ).fetchall()
        names = {}
        for number, path, content, version in rows:
            relative = path_text(path)
            names[relative] = f"{relative}\0{key_text(content) or key_text(version)}"
            new = path_bytes(names[relative]), key_bytes(keys.source_key(names[relative])), number
            self._db.execute("UPDATE present SET name = ?, key = ? WHERE number = ?", new)
        return names

    def mark_fresh(self) -> None:
        """All sources are there: find those that are fresh. Of two with one key, the last counts."""
        self._db.execute("CREATE INDEX present_key ON present (key)")
        last = "SELECT key, max(number) AS last FROM present GROUP BY key HAVING count(*) > 1"
        for key, number in self._db.execute(last).fetchall():
            self._db.execute("DELETE FROM present WHERE key = ? AND number < ?", (key, number))
        self._db.execute(_FRESH)

    def mark_unsure(self, several_kinds: bool) -> None:
        """Find the sources whose content must be read to tell what has become of them: packed ones that may have
        changed, and those that share a probe, or, where there are several kinds of them, may be copies of others."""
        self._db.execute("CREATE TABLE asked (probe BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute(
            "INSERT OR IGNORE INTO asked SELECT probe FROM fresh JOIN present USING (number) WHERE probe <> ''"
        )
        self._db.execute("CREATE TABLE shared (probe BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute(
            """INSERT INTO shared SELECT probe FROM present WHERE probe IN (SELECT probe FROM asked)
            GROUP BY probe HAVING count(*) > 1"""
        )
        self._db.execute(
            f"""INSERT OR IGNORE INTO shared SELECT p.probe FROM recorded p
            WHERE p.probe IN (SELECT probe FROM asked) AND {_GONE}"""
        )
        self._db.execute(
            """INSERT INTO unsure SELECT number FROM present WHERE content = ''
            AND probe IN (SELECT probe FROM shared)"""
        )
        self._db.execute(
            f"""INSERT OR IGNORE INTO unsure SELECT number FROM fresh JOIN present n USING (number) {_AS_PACKED}
            WHERE changed AND n.content = '' AND p.content <> '' AND p.size = n.size
            AND (by_etag OR p.probe = '' OR p.probe = n.probe)"""
        )
        if several_kinds:
            self._mark_incomparable()

    def _mark_incomparable(self) -> None:
        """Sources whose probes are of other kinds, an ETag or a checksum of a zip, can be copies where their size says
        so."""
        sizes = """SELECT size FROM present LEFT JOIN fresh USING (number) WHERE kind <> '' GROUP BY size
        HAVING count(DISTINCT kind) > 1 AND max(changed) IS NOT NULL"""
        self._db.execute(
            f"""INSERT OR IGNORE INTO unsure SELECT number FROM present WHERE kind <> '' AND content = ''
            AND size IN ({sizes})"""
        )

    def unsure(self) -> Iterator[tuple[str, str]]:
        """Relative path and key of the unsure sources; what is learned of them does not change which they are."""
        text = """SELECT number, relative, key FROM unsure JOIN present USING (number) WHERE number > ?
        ORDER BY number LIMIT 1024"""
        last = 0
        while found := self._db.execute(text, (last,)).fetchall():
            yield from ((path_text(relative), key_text(key)) for _, relative, key in found)
            last = found[-1][0]

    def learn(self, states: Iterable[tuple[str, SourceState]]) -> None:
        """Take over states, by key, that are known better now."""
        text = "UPDATE present SET size = ?, version = ?, probe = ?, content = ? WHERE key = ?"
        self._db.executemany(text, ((*state_bytes(state), key_bytes(key)) for key, state in states))

    def learn_contents(self, contents: Iterable[tuple[str, str]]) -> None:
        """Take over contents, by key."""
        text = "UPDATE present SET content = ? WHERE key = ?"
        self._db.executemany(text, ((key_bytes(content), key_bytes(key)) for key, content in contents))

    def mark_again(self) -> None:
        """Find out which unsure sources are fresh, now that their contents are known."""
        self._db.execute("DELETE FROM fresh WHERE number IN (SELECT number FROM unsure)")
        self._db.execute(f"{_FRESH} AND n.number IN (SELECT number FROM unsure)")

    def compared_without(self, recorded: RecordedSources, keys: Collection[str]) -> Changes:
        """The same, where these packed sources (keys) are taken for others than those that are present."""
        recorded.put_other(keys)
        text = "INSERT OR REPLACE INTO fresh SELECT number, 1 FROM present n JOIN recorded p USING (key) WHERE p.counts"
        self._db.executemany(f"{text} AND n.key = ?", ((key_bytes(key),) for key in keys))
        return self.compared(recorded)

    def compared(self, recorded: RecordedSources) -> Changes:
        """What has become of the packed sources, and what is new."""
        self._choose()
        packed, present = dict[str, SourceState](), dict[str, SourceState]()
        rows = self._db.execute(
            f"""SELECT n.key, {_STATE.format("n")}, p.key, {_STATE.format("p")} FROM chosen
            JOIN present n USING (number) LEFT {_AS_PACKED} ORDER BY number"""
        )
        for row in rows:
            present[key_text(row[0])] = state_of(row[1:5])
            if row[5] is not None:
                packed[key_text(row[5])] = state_of(row[6:])
        packed |= self._gone(recorded)
        found = compare(packed, present)
        fresh = self._count("SELECT count(*) FROM fresh")
        chosen = self._count("SELECT count(*) FROM chosen JOIN fresh USING (number)")
        unknown = f"""SELECT count(*) FROM recorded p CROSS JOIN present n ON n.key = p.key
        LEFT JOIN fresh USING (number) WHERE p.counts AND {_UNKNOWN} AND changed IS NULL"""
        return Changes(
            found.new,
            found.same,
            found.changed,
            found.renamed,
            found.copied,
            found.removed,
            self._count(unknown),
            plain_new=fresh - chosen,
            plain_same=len(self) - fresh - len(found.same),
        )

    def __len__(self) -> int:
        return self._count("SELECT count(*) FROM present")

    def _choose(self) -> None:
        """Those of which not only their number matters: changed sources, fresh ones whose content another source has or
        had, and the others that have it."""
        held = "SELECT content FROM held WHERE several"
        same = f"present n {_AS_PACKED} WHERE n.number NOT IN (SELECT number FROM fresh)"
        content = "(CASE WHEN n.content = '' THEN p.content ELSE n.content END)"
        self._db.execute("DROP TABLE IF EXISTS held")
        self._db.execute("DROP TABLE IF EXISTS chosen")
        self._db.execute("CREATE TABLE held (content BLOB PRIMARY KEY, several INTEGER) WITHOUT ROWID")
        self._db.execute("CREATE TABLE chosen (number INTEGER PRIMARY KEY)")
        self._db.execute(
            """INSERT INTO held SELECT content, count(*) > 1 FROM fresh JOIN present USING (number)
            WHERE content <> '' GROUP BY content"""
        )
        if self._count("SELECT EXISTS (SELECT 1 FROM held)"):
            one = "UPDATE held SET several = 1 WHERE content IN"
            self._db.execute(f"{one} (SELECT {content} FROM {same} AND {content} IN (SELECT content FROM held))")
            self._db.execute(
                f"{one} (SELECT p.content FROM recorded p WHERE p.content IN (SELECT content FROM held) AND {_GONE})"
            )
            self._db.execute(f"INSERT INTO chosen SELECT n.number FROM {same} AND {content} IN ({held})")
        self._db.execute(
            f"""INSERT INTO chosen SELECT number FROM fresh JOIN present USING (number)
            WHERE changed OR content IN ({held})"""
        )

    def _gone(self, recorded: RecordedSources) -> dict[str, SourceState]:
        """Packed sources that are not present, in the order of the records."""
        place = {recorded.number(record): rank for rank, record in enumerate(recorded.settled)}
        rows = self._db.execute(f"SELECT p.record, p.at, p.key, {_STATE.format('p')} FROM recorded p WHERE {_GONE}")
        ordered = sorted(rows, key=lambda row: (place[row[0]], row[1]))
        return {key_text(key): state_of(state) for _, _, key, *state in ordered}

    def _count(self, text: str) -> int:
        return int(self._db.execute(text).fetchone()[0])


def _row_of(source: Present) -> tuple[object, ...]:
    return (
        path_bytes(source.relative),
        key_bytes(source.key),
        *state_bytes(source.state),
        source.size,
        None if source.name is None else path_bytes(source.name),
        source.kind or None,
        source.by_etag or None,
        source.watched or None,
        source.files,
        path_bytes(source.solid) if source.solid else None,
        source.window,
    )
