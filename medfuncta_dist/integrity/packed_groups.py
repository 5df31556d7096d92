"""Whose the sources of a damaged shard were when they were packed, which the archive may no longer tell.

Files that are moved to where nothing tells another patient keep theirs, and so does a series of which one file is moved
to another patient's folder. The indexes of the record say whose they were. Where such an index is damaged too, what
the name under which a file was packed tells is tried, and what the folders of single files of a series tell: the right
one gives the bytes that the snapshot names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import IntegrityError, ObjectMissingError, ScanError
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.scans.patient_group import IN_FILE, NOT_TOLD, Group, group_in_path
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.object_store import ObjectStore

UNREADABLE = IntegrityError, ObjectMissingError, ScanError
TRIES = 16
"""Each reads the sources of a whole record."""
Possible = Mapping[str, tuple[Group, ...]]
"""Whose a source (key) may have been, of which nothing as a whole tells it"""


def possible_groups(
    files: Iterable[PackSource], sources: Sequence[PackSource], data: Data, keys: KeyMaker
) -> dict[str, tuple[Group, ...]]:
    """``Possible``, of the ``sources`` that are made of these files, under the names that they were packed with."""
    untold = [source for source in sources if source.group is None]
    of_series = {member.uri for source in untold for member in source.members}
    told = {file.uri: file.group for file in files if file.group is not None and file.uri in of_series}
    found = {}
    for source in untold:
        groups = {told[member.uri] for member in source.members if member.uri in told}
        if not source.members and data.grouping in (None, "patient"):
            former = source.uri.removesuffix(source.path) + source.relative
            groups = {group for group in (group_in_path(source.relative, former, keys),) if group}
        if groups:
            found[source.key] = tuple(sorted(groups))
    return found


def as_packed(
    store: ObjectStore, sources: Sequence[PackSource], shards: Iterable[Shard], possible: Possible
) -> Iterator[tuple[PackSource, ...]]:
    """The sources as those whose they were, by the indexes of these shards; then, where an index cannot be read, as
    those whose they may have been."""
    groups, unread = _indexed(store, shards)
    known = tuple(_as_of(source, groups[source.key]) if source.key in groups else source for source in sources)
    yield known
    if unread:
        doubtful = {key: (*found, None) for key, found in possible.items() if key not in groups}
        choices = product(*([_as_of(s, {group}) for group in doubtful.get(s.key, ())] or [s] for s in known))
        yield from islice((choice for choice in choices if choice != known), TRIES)


def _indexed(store: ObjectStore, shards: Iterable[Shard]) -> tuple[dict[str, set[Group | None]], bool]:
    """Whose each source was, by key, as far as its file does not say so (None where nothing did); and whether an index
    cannot be read."""
    groups, unread = defaultdict[str, set[Group | None]](set), False
    for shard in shards:
        try:
            table = read_index(store, shard)
        except UNREADABLE:
            unread = True
            continue
        rows = table.select(["source", "group", "group_by"]).to_pylist() if "group" in table.column_names else ()
        for row in rows:
            if (by := row["group_by"]) not in IN_FILE:
                groups[row["source"]].add(None if by in NOT_TOLD else Group(row["group"], by))
    return dict(groups), unread


def _as_of(source: PackSource, groups: set[Group | None]) -> PackSource:
    """The source as the one whose it was. Where the table tells several of its scans apart, it goes on doing so."""
    if len(groups) != 1:
        return source
    [group] = groups
    told = {key: replace(t, group=group) if t.group == source.group else t for key, t in source.told.items()}
    return replace(source, group=group, told=told, scattered=False)
