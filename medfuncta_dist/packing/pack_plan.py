"""Which sources are left to pack, and in which groups: pure, from the archive's sources and the records in storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.pack_record import PackRecord, group_name, settle
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.storage.digest import digest_json

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
    """``groups`` and ``revised``: the sources of each task to run. ``records``: the earlier tasks that count, in order.
    ``rests``: what to write of records that no longer count (``replaced``, by name)."""

    groups: list[tuple[PackSource, ...]]
    records: list[PackRecord]
    revised: list[Revised] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)
    replaced: frozenset[str] = frozenset()

    @property
    def done(self) -> int:
        """Sources that need no work: packed or quarantined earlier."""
        return sum(len(record.sources) for record in self.records) + sum(len(rest.sources) for rest in self.rests)


def plan(
    sources: Sequence[PackSource],
    records: Iterable[PackRecord],
    packed: Sequence[str],
    sources_per_task: int,
    superseded: Superseded = Superseded(),
) -> PackPlan:
    """Group the sources that no settled record has, or whose packed scans are superseded.

    ``packed`` names the packs of the newest snapshot. Groups are consecutive sources, so that a rerun over the same
    archive finds the same groups. Raises ``RunFileError`` where two sources have one key.
    """
    if len({source.key for source in sources}) != len(sources):
        raise RunFileError(
            "two sources have the same key: they have the same path below their patterns",
            where="data",
            do="write one pattern that begins at their common parent folder",
        )
    records = list(records)
    settled = settle(records, first=packed)
    replaced = [record for record in settled if not superseded.sources.isdisjoint(record.sources)]
    kept = [record for record in settled if superseded.sources.isdisjoint(record.sources)]
    rests = [_rest(record, superseded) for record in replaced]
    done = {key for record in kept for key in record.sources} | {key for rest in rests for key in rest.sources}
    left = [source for source in sources if source.key not in done]
    gone = frozenset(record.name for record in replaced)
    earlier = gone | {name for record in settled if record.name in packed for name in record.replaces}
    before = {key for record in records if record.name in earlier for key in record.sources}
    groups = list(_grouped((source for source in left if source.key not in before), sources_per_task))
    again = _grouped((source for source in left if source.key in before), sources_per_task)
    revised = [Revised(group, _revision(group, superseded.base)) for group in again]
    return _resumed(PackPlan(groups, kept, revised, rests, gone), records)


def pack_again(rest: Rest, sources: Sequence[PackSource], sources_per_task: int) -> list[Revised] | None:
    """The sources of ``rest`` as tasks that read them from the archive; None where one of them is not there."""
    wanted = set(rest.sources)
    found = [source for source in sources if source.key in wanted]
    if len(found) < len(wanted):
        return None
    return [Revised(group, _revision(group, rest.revision)) for group in _grouped(found, sources_per_task)]


def _rest(record: PackRecord, superseded: Superseded) -> Rest:
    stay = tuple(key for key in record.sources if key not in superseded.sources)
    return Rest(record, stay, digest_json({"base": superseded.base, "rest of": record.name}))


def _revision(group: Sequence[PackSource], base: str) -> str:
    """It differs where a source's bytes, split, patient or labels do."""
    states = {s.key: [s.state.size, s.state.version, s.state.content] if s.state else [] for s in group}
    told = {s.key: [s.split, s.group and s.group.key, s.labels, *_of_scans(s)] for s in group}
    return digest_json({"base": base, "sources": states, "told": told})


def _of_scans(source: PackSource) -> list[object]:
    mask: list[object] = [["mask", source.mask.size, source.mask.version]] if source.mask else []
    return mask + [[key, t.split, t.group and t.group.key, t.labels] for key, t in sorted(source.told.items())]


def _resumed(made: PackPlan, records: Iterable[PackRecord]) -> PackPlan:
    """The plan without what an earlier call, which did not reach its snapshot, has done of it."""
    names = {group.name for group in made.revised} | {rest.name for rest in made.rests}
    found = {record.name: record for record in records if record.revision and record.name in names}
    return replace(
        made,
        records=made.records + [found[name] for name in sorted(found)],
        revised=[group for group in made.revised if group.name not in found],
        rests=[rest for rest in made.rests if rest.name not in found],
    )


def _grouped(sources: Iterable[PackSource], size: int) -> Iterable[tuple[PackSource, ...]]:
    """Consecutive sources, as many as have ``size`` files, or one that has more. Apart from them, those of each
    compressed tar: every task that reads of one decompresses it, so these tasks are as large as their disk allows."""
    solid: dict[str, list[PackSource]] = {}
    others: list[PackSource] = []
    for source in sources:
        archive = min((place.archive for place in source.places if place.solid), default="")
        (solid.setdefault(archive, []) if archive else others).append(source)
    yield from _consecutive(others, lambda source: source.files, size)
    yield from chain.from_iterable(_consecutive(of_one, _window, WINDOW_BYTES) for of_one in solid.values())


def _window(source: PackSource) -> int:
    """Bytes that it takes on the disk of its task; a small file takes a block."""
    return sum(place.size + BLOCK_BYTES for place in source.places)


def _consecutive(
    sources: Iterable[PackSource], weight: Callable[[PackSource], int], size: int
) -> Iterator[tuple[PackSource, ...]]:
    group: list[PackSource] = []
    files = 0
    for source in sources:
        if group and files + weight(source) > size:
            yield tuple(group)
            group, files = [], 0
        group.append(source)
        files += weight(source)
    if group:
        yield tuple(group)
