"""Which sources are left to pack, and in which groups: from the archive's sources and the records, as they are on disk
while the pack stage runs; nothing of them is changed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from medfuncta_dist.packing.archive_sources import ArchiveSources, Left
from medfuncta_dist.packing.pack_record import PackRecord, group_name
from medfuncta_dist.packing.recorded_sources import RecordedSources
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.work_tables import Lazy
from medfuncta_dist.storage.digest import digest_json

T = TypeVar("T")
WINDOW_BYTES = 2**30
"""Of one compressed tar, what a task keeps on its local disk at once; more only where one source has more."""
BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Revised:
    """The sources of a task that were packed before. ``revision`` as in ``PackRecord``."""

    sources: tuple[PackSource, ...]
    revision: str

    @property
    def name(self) -> str:
        """The name of the task's record."""
        return group_name((source.key for source in self.sources), self.revision)


@dataclass(frozen=True)
class Rest:
    """What stays of a record when some of its sources do not: ``sources``, in the order of the record."""

    record: PackRecord
    sources: tuple[str, ...]
    revision: str
    without: frozenset[str] = frozenset()
    """Scans (keys) of these sources that do not stay."""

    @property
    def name(self) -> str:
        """The name of the record that replaces it."""
        return group_name(self.sources, self.revision)


@dataclass(frozen=True)
class Superseded:
    """The packed sources (keys) whose scans are not in the next snapshot as they are.

    ``base`` is the digest of the snapshot that they are in now.
    """

    sources: frozenset[str] = frozenset()
    base: str = ""


@dataclass(frozen=True)
class PackPlan:
    """``groups`` and ``revised``: the sources of each task to run, which are made when they are asked for. ``records``:
    the earlier tasks that count, in order. ``rests``: what to write of records that no longer count (``replaced``, by
    name), made so, too."""

    groups: Lazy[tuple[PackSource, ...]]
    records: list[PackRecord]
    revised: Lazy[Revised] = field(default_factory=Lazy)
    rests: Lazy[Rest] = field(default_factory=Lazy)
    replaced: frozenset[str] = frozenset()
    left: int = 0
    """Sources in ``groups`` and ``revised``."""
    left_bytes: int = 0
    """Bytes that these have."""


def plan(
    archive: ArchiveSources,
    recorded: RecordedSources,
    packed: Sequence[str],
    sources_per_task: int,
    superseded: Superseded = Superseded(),
) -> PackPlan:
    """Group the sources that no settled record has, or whose packed scans are superseded.

    ``packed`` names the packs of the newest snapshot. Groups are consecutive sources, so that a rerun over the same
    archive finds the same groups.
    """
    settled, in_snapshot = recorded.settled, set(packed)
    replaced = recorded.with_any(superseded.sources)
    gone = frozenset(record.name for record in replaced)
    earlier = gone | {name for record in settled if record.name in in_snapshot for name in record.replaces}
    before = [recorded.number(record) for record in recorded.records if record.name in earlier]
    groups, again = (list(_numbers(archive.left(before), before_too, sources_per_task)) for before_too in (False, True))
    revised = [(partial(_revised, archive, group, superseded.base), len(group)) for group in again]
    rests = [partial(_rest, recorded, record, superseded) for record in replaced]
    # What an earlier call, which did not reach its snapshot, has done is not done again.
    done = {record.name: record for record in recorded.records if record.revision}
    named = [(made.name, make, number, size_of(made.sources)) for make, number in revised if (made := make())]
    rest_names = [make().name for make in rests]
    found = sorted(done.keys() & {*rest_names, *(name for name, *_ in named)})
    return PackPlan(
        Lazy([partial(archive.of_numbers, group) for group in groups]),
        [record for record in settled if record.name not in gone] + [done[name] for name in found],
        Lazy([make for name, make, *_ in named if name not in done]),
        Lazy([make for name, make in zip(rest_names, rests, strict=True) if name not in done]),
        gone,
        sum(map(len, groups)) + sum(number for name, _, number, _ in named if name not in done),
        archive.to_read()[1] - sum(size for name, _, _, size in named if name in done),
    )


def size_of(sources: Iterable[PackSource]) -> int:
    """How many bytes these sources have."""
    return sum(source.size for source in sources)


def _revised(archive: ArchiveSources, group: Sequence[int], base: str) -> Revised:
    sources = archive.of_numbers(group)
    return Revised(sources, _revision(sources, base))


def pack_again(rest: Rest, archive: ArchiveSources, sources_per_task: int) -> list[Revised] | None:
    """The sources of ``rest`` as tasks that read them from the archive; None where one of them is not there."""
    found = archive.packed_as(rest.sources)
    if len(found) < len(rest.sources):
        return None
    weighed = (Weighed(source, source.files, solid_archive(source), window(source)) for source in found)
    groups = (tuple(group) for group in _grouped(weighed, sources_per_task))
    return [Revised(group, _revision(group, rest.revision)) for group in groups]


def _rest(recorded: RecordedSources, record: PackRecord, superseded: Superseded) -> Rest:
    whole = recorded.whole(record)
    stay = tuple(key for key in whole.sources if key not in superseded.sources)
    return Rest(whole, stay, digest_json({"base": superseded.base, "rest of": record.name}))


def _revision(group: Sequence[PackSource], base: str) -> str:
    """It differs where a source's bytes, split, patient or labels do."""
    states = {s.key: [s.state.size, s.state.version, s.state.content] if s.state else [] for s in group}
    told = {s.key: [s.split, s.group and s.group.key, s.labels, *_of_scans(s)] for s in group}
    return digest_json({"base": base, "sources": states, "told": told})


def _of_scans(source: PackSource) -> list[object]:
    mask: list[object] = [["mask", source.mask.size, source.mask.version]] if source.mask else []
    return mask + [[key, t.split, t.group and t.group.key, t.labels] for key, t in sorted(source.told.items())]


class Weighed(NamedTuple, Generic[T]):
    """A source, in whatever form, and what it counts in a group: ``files``; of those that are read from one compressed
    tar (``solid``), the bytes that they take on the disk of their task."""

    item: T
    files: int
    solid: str
    window: int


def _numbers(left: Iterable[Left], again: bool, size: int) -> Iterator[array[int]]:
    """The groups, as numbers of sources."""
    weighed = (Weighed(one.number, one.files, one.solid, one.window) for one in left if one.again == again)
    return (array("q", group) for group in _grouped(weighed, size))


def _grouped(sources: Iterable[Weighed[T]], size: int) -> Iterator[list[T]]:
    """Consecutive sources, as many as have ``size`` files, or one that has more. Apart from them, those of each
    compressed tar: every task that reads of one decompresses it, so these tasks are as large as their disk allows."""
    solid: dict[str, list[Weighed[T]]] = {}

    def others() -> Iterator[Weighed[T]]:
        for source in sources:
            if source.solid:
                solid.setdefault(source.solid, []).append(source)
            else:
                yield source

    yield from _consecutive(((source.item, source.files) for source in others()), size)
    for of_one in solid.values():
        yield from _consecutive(((source.item, source.window) for source in of_one), WINDOW_BYTES)


def solid_archive(source: PackSource) -> str:
    """The compressed tar that must be read for a source; "" where there is none."""
    return min((place.archive for place in source.places if place.solid), default="")


def window(source: PackSource) -> int:
    """Bytes that it takes on the disk of its task where it is inside an archive file; a small file takes a block."""
    return sum(place.size + BLOCK_BYTES for place in source.places)


def _consecutive(sources: Iterable[tuple[T, int]], size: int) -> Iterator[list[T]]:
    group: list[T] = []
    weight = 0
    for source, own in sources:
        if group and weight + own > size:
            yield group
            group, weight = [], 0
        group.append(source)
        weight += own
    if group:
        yield group
