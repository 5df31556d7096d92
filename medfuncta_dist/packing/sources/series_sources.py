"""From files to sources: the single-image DICOM files of one series are one source, by what their headers say.

It is identified by patient, study and series, and its state is made of its files' contents. So neither the names nor
the order of its files matter, and a series with a file more is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.archive.inventory import Row
from medfuncta_dist.archive.series_sums import in_series
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.recorded_sources import state_bytes, state_of
from medfuncta_dist.packing.sources.pack_source import Member, PackSource
from medfuncta_dist.packing.sources.segmentation_pairs import NO_PAIRS, SegmentationPairs
from medfuncta_dist.packing.sources.source_rows import COLUMNS as FILE_COLUMNS
from medfuncta_dist.packing.sources.source_rows import mask_dict, mask_of, source_of, told_list, told_of
from medfuncta_dist.packing.work_tables import Tables, key_bytes, key_text, path_bytes, path_text
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.scan_key import KeyMaker

COLUMNS = ["relative", "reader", "patient", "study", "series", "instance", "sop_class", "rows", "columns", "frames"]
TOLD = ("path", "table")
"""Ways in which the run file tells whose a source is (``patient_group.WAYS``)."""


class SeriesFile(NamedTuple):
    """One file of a series. ``name``: a key that stands for its SOPInstanceUID."""

    source: PackSource
    name: str
    state: SourceState

    @property
    def member(self) -> Member:
        """What the series' source says of it."""
        of = self.source
        return Member(of.uri, self.name, of.size, self.state.content, of.labels, of.place)


class SeriesSources:
    """The files of series, which come in any order, on disk; beside the rows of these files (``SourceRows``)."""

    def __init__(self, tables: Tables, data: Data, keys: KeyMaker, pairs: SegmentationPairs = NO_PAIRS) -> None:
        self._db, self._data, self._keys, self._pairs = tables, data, keys, pairs
        self._last: tuple[str, str] = ("", "")
        tables.execute(
            """CREATE TABLE member (relative BLOB PRIMARY KEY, series BLOB, name BLOB, size BLOB, version BLOB,
            probe BLOB, content BLOB) WITHOUT ROWID"""
        )
        tables.execute("CREATE TABLE series (key BLOB PRIMARY KEY, identity BLOB, told TEXT, mask TEXT) WITHOUT ROWID")

    def take(self, row: Row, state: SourceState) -> bool:
        """Whether the file of a row of the inventory belongs to a series; then it is taken over."""
        if (key := self.key_of(row)) is None:
            return False
        identity = path_bytes(series_identity(row))
        mask = self._pairs.of(row)
        said = json.dumps(mask_dict(mask)) if mask else None
        self._db.execute("INSERT OR IGNORE INTO series VALUES (?, ?, NULL, ?)", (key_bytes(key), identity, said))
        name = self._keys.property_key("instance", row["instance"])
        place = path_bytes(row["relative"]), key_bytes(key), key_bytes(name)
        self._db.execute("INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?, ?, ?, ?)", (*place, *state_bytes(state)))
        return True

    def ready(self) -> None:
        """All files are there."""
        self._db.execute("CREATE INDEX members ON member (series, name)")
        self._db.execute("CREATE INDEX by_identity ON series (identity)")

    def key_of(self, row: Row) -> str | None:
        """The key of the series to which a row of an inventory belongs; None for another file."""
        if not isinstance(self._data.series, Series) or not in_series(row):
            return None
        identity = series_identity(row)
        if self._last[0] != identity:  # the next file is often of the same series
            self._last = identity, self._keys.source_key(identity)
        return self._last[1]

    def holds(self, row: Row) -> bool:
        """Whether a file of an earlier inventory is still where it was, as the same one of its series."""
        name = self._keys.property_key("instance", row["instance"])
        now = self._db.execute("SELECT series, name FROM member WHERE relative = ?", (path_bytes(row["relative"]),))
        return bool(now.fetchone() == (key_bytes(self.key_of(row) or ""), key_bytes(name)))

    def sources(self, keys: Iterable[str] | None = None) -> Iterator[PackSource]:
        """The series with these keys, or all in the order of their identities; one of them in memory at once.

        RunFileError, after the last, where the run file assigns the files of one to several patients or splits.
        """
        apart = 0
        for key in self._all() if keys is None else keys:
            files = self.files(key)
            apart += len({_told(file.source) for file in self._telling(files)}) > 1
            yield self._source(key, files)
        if apart:
            raise RunFileError(
                f"{apart} DICOM series have files that the run file assigns to different splits or patients",
                where="data.splits or data.group",
                do="assign whole series, or set data.series to file to pack each file by itself",
            )

    def files(self, key: str) -> list[SeriesFile]:
        """The files of a series, sorted by name, content and path."""
        columns = ", ".join(f"file.{name}" for name in FILE_COLUMNS.split(", "))
        rows = self._db.execute(
            f"""SELECT name, member.size, member.version, probe, content, {columns} FROM member
            JOIN file ON file.relative = member.relative WHERE series = ?""",
            (key_bytes(key),),
        )
        found = [SeriesFile(source_of(row[5:]), key_text(row[0]), state_of(row[1:5])) for row in rows]
        return sorted(found, key=lambda file: (file.name, file.state.content, file.source.relative))

    def without_content(self, key: str) -> list[str]:
        """Relative paths of the files of a series whose content is unknown."""
        text = "SELECT relative FROM member WHERE series = ? AND content = ''"
        return [path_text(relative) for (relative,) in self._db.execute(text, (key_bytes(key),))]

    def doubles(self) -> list[str]:
        """Relative paths of the files whose content is unknown, and that have the identifier of another in the series:
        they may be copies."""
        several = "SELECT series, name FROM member GROUP BY series, name HAVING count(*) > 1 AND min(content) = ''"
        text = f"SELECT relative FROM ({several}) JOIN member USING (series, name) WHERE content = ''"
        return [path_text(relative) for (relative,) in self._db.execute(text)]

    def learn(self, contents: Mapping[str, str]) -> None:
        """Take over what is now known of contents (keys), by relative path; other files' are ignored."""
        known = ((key_bytes(content), path_bytes(relative)) for relative, content in contents.items() if content)
        self._db.executemany("UPDATE member SET content = ? WHERE relative = ?", known)

    def tell(self, sources: Iterable[PackSource]) -> None:
        """Take over what the run file's table says of whole series."""
        told = ((json.dumps(_table_says(source)), key_bytes(source.key)) for source in sources)
        self._db.executemany("UPDATE series SET told = ? WHERE key = ?", told)

    def _telling(self, files: Sequence[SeriesFile]) -> Sequence[SeriesFile]:
        """Those that tell whose the series is, and its labels: all, or not the copies among them."""
        table = self._data.table
        return _without_copies(files) if table is not None and table.copies == "first" else files

    def _all(self) -> Iterator[str]:
        for (key,) in self._db.execute("SELECT key FROM series ORDER BY identity"):
            yield key_text(key)

    def _source(self, key: str, files: Sequence[SeriesFile]) -> PackSource:
        text = "SELECT identity, told, mask FROM series WHERE key = ?"
        identity, told, mask = self._db.execute(text, (key_bytes(key),)).fetchone()
        made = series_source(key, path_text(identity), files, self._telling(files), self._keys)
        made = replace(made, **_as_table_says(json.loads(told))) if told else made
        made = replace(made, mask=mask_of(json.loads(mask))) if mask else made
        decided = made.group is not None or made.split is not None or self._data.grouping not in (None, "patient")
        return replace(made, scattered=False) if decided else made


def series_source(
    key: str, identity: str, files: Sequence[SeriesFile], telling: Sequence[SeriesFile], keys: KeyMaker
) -> PackSource:
    """The source that these files make, which are sorted; ``telling``: those whose groups and labels count. Files in
    folders that tell no patient are of the patient of the others."""
    apart = _without_copies(files)
    groups = {file.source.group for file in telling if file.source.group is not None}
    labels = {file.source.labels for file in telling}
    return PackSource(
        key,
        files[0].source.uri,
        identity,
        files[0].source.split,
        group=next(iter(groups)) if len(groups) == 1 else None,
        labels=labels.pop() if len(labels) == 1 else None,
        unlisted=any(file.source.unlisted for file in telling),
        size=sum(file.source.size for file in files),
        state=_state([file.state for file in apart], keys),
        members=tuple(file.member for file in apart),
        copies=len(files) - len(apart),
        scattered=len(groups) > 1 and not _names_patient(identity),
    )


def _table_says(source: PackSource) -> list[Any]:
    told = {key: told_list(said) for key, said in source.told.items()}
    return [source.split, source.group, source.labels, told, source.unlisted]


def _as_table_says(values: Sequence[Any]) -> dict[str, Any]:
    split, group, labels, told, unlisted = values
    return {
        "split": split,
        "group": Group(*group) if group else None,
        "labels": None if labels is None else tuple(labels),
        "told": {key: told_of(said) for key, said in told.items()},
        "unlisted": unlisted,
    }


def joint_content(contents: Iterable[str], keys: KeyMaker) -> str:
    """The content of a series from those of its files, in any order; unknown where one of them is."""
    found = sorted(set(contents))
    return keys.property_key("series content", *found) if found and all(found) else ""


def series_identity(row: Row) -> str:
    """In place of a path. No path has a zero in it."""
    return "\0".join(("", row["patient"] or "", row["study"] or "", row["series"]))


def packed_key(row: Row, data: Data, keys: KeyMaker) -> str:
    """The key of the source that a row of the inventory (``COLUMNS`` and ``identity``) was packed in."""
    whole = isinstance(data.series, Series) and in_series(row)
    return keys.source_key(series_identity(row) if whole else row["identity"])


def is_series(relative: str) -> bool:
    """Whether this identifies a series. No path begins so."""
    return relative.startswith("\0")


def placed_anew(source: PackSource) -> bool:
    """Whether a packed series may now be placed elsewhere although it is as it was: the folders of its files, or the
    run file, say whose it is."""
    return bool(source.members) and (told(source) or not _names_patient(source.relative))


def _names_patient(identity: str) -> bool:
    """Whether the files of a series name a patient."""
    return identity.split("\0")[1] != ""


def _told(source: PackSource) -> tuple[str | None, str]:
    """The split and the patient that the run file gives."""
    return source.split, source.group.key if source.group is not None and source.group.by in TOLD else ""


def told(source: PackSource) -> bool:
    """Whether the run file assigns a split or a patient."""
    return _told(source) != (None, "")


def _without_copies(files: Sequence[SeriesFile]) -> list[SeriesFile]:
    """Of files with one identifier and the same bytes, the first. ``files`` are sorted by both."""
    apart: list[SeriesFile] = []
    for file in files:
        same = apart and apart[-1].name == file.name and apart[-1].state.content == file.state.content
        if not (same and file.state.content):
            apart.append(file)
    return apart


def _state(states: Sequence[SourceState], keys: KeyMaker) -> SourceState:
    def joint(name: str) -> str:
        values = sorted(getattr(state, name) for state in states)
        return keys.property_key(f"series {name}", *values) if all(values) else ""

    content = joint_content((state.content for state in states), keys)
    return SourceState(joint("size"), joint("version"), joint("probe"), content)
