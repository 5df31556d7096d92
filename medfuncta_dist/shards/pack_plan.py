"""Which sources are left to pack, and in which groups: pure, from the archive's sources and the records in storage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.patient_group import Group, group_in_path
from medfuncta_dist.scans.readers.reader_registry import reader_for
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.pack_record import PackRecord, settle
from medfuncta_dist.shards.source_table import SourceTable, load_table
from medfuncta_dist.storage.sources import Source, expand


@dataclass(frozen=True)
class PackSource:
    """A source and its key. Its URI and path are never printed: they can name a patient."""

    key: str
    uri: str = field(repr=False)
    relative: str = field(repr=False)
    split: str | None = None
    """The split that the run file assigns; None if the file itself or the key decides."""
    path: str = field(default="", repr=False)
    """``relative`` without the split that ``data.splits`` assigns."""
    group: Group | None = None
    """Whose it is, as its path or the run file's rule or table tells."""
    labels: tuple[int, ...] | None = None
    """Those that the run file's table gives."""


@dataclass(frozen=True)
class PackPlan:
    """``groups``: the sources of each task to run. ``records``: the earlier tasks that count, in order."""

    groups: list[tuple[PackSource, ...]]
    records: list[PackRecord]

    @property
    def done(self) -> int:
        """Sources that need no work: packed or quarantined earlier."""
        return sum(len(record.sources) for record in self.records)


def find_sources(data: Data, keys: KeyMaker, table: SourceTable | None = None) -> list[PackSource]:
    """All sources that the run file names, with their keys, sorted by relative path (``RunFileError``).

    ``table`` is that of ``data.group``, which is read where it is not given.
    """
    table = load_table(data) if table is None else table
    if data.source is not None:
        return _keyed(expand(data.source), keys, data, table, None)
    if data.splits is None:
        raise RunFileError(
            "there is nothing to pack: the run file names a snapshot, but no scans",
            where="data",
            do="set data.source or data.splits, or leave the pack stage out",
        )
    found = [
        source
        for split, patterns in sorted(data.splits.items())
        for source in _keyed(expand(patterns), keys, data, table, split)
    ]
    if repeated := len(found) - len({source.uri for source in found}):
        raise RunFileError(
            f"{repeated} source files belong to more than one split",
            where="data.splits",
            do="change the patterns so that each file matches one split",
        )
    return found


def _keyed(
    sources: list[Source], keys: KeyMaker, data: Data, table: SourceTable | None, split: str | None
) -> list[PackSource]:
    for source in sources:
        reader_for(data.reader, source.uri)  # refuses an unknown format before anything starts
    known = _known(sources, keys, data, table)
    # Two splits' folders often use the same file names: the split is then part of what identifies a source.
    relatives = [source.relative if split is None else f"{split}/{source.relative}" for source in sources]
    return [
        PackSource(
            keys.source_key(relative), source.uri, relative, split or row.split, source.relative, row.group, row.labels
        )
        for source, relative, row in zip(sources, relatives, known, strict=True)
    ]


class _Known(NamedTuple):
    group: Group | None
    split: str | None = None
    labels: tuple[int, ...] | None = None


def _known(sources: Sequence[Source], keys: KeyMaker, data: Data, table: SourceTable | None) -> list[_Known]:
    """What is known of each source before it is read: whose it is, and the split and labels that the table gives."""
    if table is not None:
        rows = table.of([source.relative for source in sources])
        return [_Known(Group(keys.group_key("table", row.group), "table"), row.split, row.labels) for row in rows]
    if isinstance(data.group, Grouping) and data.group.path is not None:
        return [_Known(group) for group in _by_path(data.group.path, sources, keys)]
    return [_Known(group_in_path(source.relative, source.uri, keys)) for source in sources]


def _by_path(rule: str, sources: Sequence[Source], keys: KeyMaker) -> list[Group]:
    found = [match.group(1) if (match := re.search(rule, source.relative)) else None for source in sources]
    if unmatched := sum(not text for text in found):
        raise RunFileError(
            f"{unmatched} of {len(sources)} sources have a path in which data.group.path finds no patient",
            where=f"data.group.path: {rule}",
            do="write a rule that matches every path below the fixed part of data.source, or give a table",
        )
    return [Group(keys.group_key("path", str(text)), "path") for text in found]


def plan(
    sources: Sequence[PackSource], records: Iterable[PackRecord], packed: Sequence[str], sources_per_task: int
) -> PackPlan:
    """Group the sources that no settled record has. ``packed`` names the packs of the newest snapshot.

    Groups are consecutive sources, so that a rerun over the same archive finds the same groups. Raises
    ``RunFileError`` where two sources have one key.
    """
    if len({source.key for source in sources}) != len(sources):
        raise RunFileError(
            "two sources have the same key: they have the same path below their patterns",
            where="data",
            do="write one pattern that begins at their common parent folder",
        )
    settled = settle(records, first=packed)
    done = {key for record in settled for key in record.sources}
    left = (source for source in sources if source.key not in done)
    return PackPlan(list(_grouped(left, sources_per_task)), settled)


def _grouped(sources: Iterable[PackSource], size: int) -> Iterable[tuple[PackSource, ...]]:
    iterator = iter(sources)
    while group := tuple(islice(iterator, size)):
        yield group
