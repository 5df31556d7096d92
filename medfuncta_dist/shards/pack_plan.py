"""Which sources are left to pack, and in which groups: pure, from the archive's sources and the records in storage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.readers.reader_registry import reader_for
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.pack_record import PackRecord, settle
from medfuncta_dist.storage.sources import Source, expand


@dataclass(frozen=True)
class PackSource:
    """A source and its key. Its URI and path are never printed: they can name a patient."""

    key: str
    uri: str = field(repr=False)
    relative: str = field(repr=False)
    split: str | None = None
    """The split that the run file assigns; None if the file itself or the key decides."""


@dataclass(frozen=True)
class PackPlan:
    """``groups``: the sources of each task to run. ``records``: the earlier tasks that count, in order."""

    groups: list[tuple[PackSource, ...]]
    records: list[PackRecord]

    @property
    def done(self) -> int:
        """Sources that need no work: packed or quarantined earlier."""
        return sum(len(record.sources) for record in self.records)


def find_sources(data: Data, keys: KeyMaker) -> list[PackSource]:
    """All sources that the run file names, with their keys, sorted by relative path (``RunFileError``)."""
    if data.source is not None:
        return _keyed(expand(data.source), keys, data.reader, None)
    if data.splits is None:
        raise RunFileError(
            "there is nothing to pack: the run file names a snapshot, but no scans",
            where="data",
            do="set data.source or data.splits, or leave the pack stage out",
        )
    found = [
        s for split, patterns in sorted(data.splits.items()) for s in _keyed(expand(patterns), keys, data.reader, split)
    ]
    if repeated := len(found) - len({source.uri for source in found}):
        raise RunFileError(
            f"{repeated} source files belong to more than one split",
            where="data.splits",
            do="change the patterns so that each file matches one split",
        )
    return found


def _keyed(sources: list[Source], keys: KeyMaker, reader: str | None, split: str | None) -> list[PackSource]:
    for source in sources:
        reader_for(reader, source.uri)  # refuses an unknown format before anything starts
    # Two splits' folders often use the same file names: the split is then part of what identifies a source.
    relatives = [source.relative if split is None else f"{split}/{source.relative}" for source in sources]
    return [
        PackSource(keys.source_key(relative), source.uri, relative, split)
        for source, relative in zip(sources, relatives, strict=True)
    ]


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
