"""Which sources are left to pack, and in which groups: pure, from the archive's sources and the records in storage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.archive.member_lists import reader_name, with_members
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.errors import RunFileError, ScanError
from medfuncta_dist.packing.pack_record import PackRecord, group_name, settle
from medfuncta_dist.packing.sources.record_parts import files_beside, without_parts
from medfuncta_dist.packing.sources.set_aside import (
    NAMED,
    PAIRED,
    SEGMENTATION,
    UNPAIRED,
    in_image_format,
    reason_aside,
    reason_inside,
    require_some,
)
from medfuncta_dist.scans.patient_group import Group, group_in_path
from medfuncta_dist.scans.readers.nifti import other_of_pair, values_of_pair
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.scans.segmentation import is_segmentation, pairs
from medfuncta_dist.storage.archive_files.place import Place
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.source_ranges import fetch_from
from medfuncta_dist.storage.sources import Source, expand, suffix

WINDOW_BYTES = 2**30
"""Of one compressed tar, what a task keeps on its local disk at once; more only where one source has more."""
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a DICOM series."""

    uri: str = field(repr=False)
    name: str
    """A key that stands for its SOPInstanceUID."""
    size: int = field(default=0, repr=False)
    """Bytes."""
    content: str = ""
    """As in ``SourceState``."""
    labels: tuple[int, ...] | None = None
    """Those that the run file's table gives."""
    place: Place | None = field(default=None, repr=False)
    """Where it lies, if it is inside a zip or tar file."""


@dataclass(frozen=True)
class Told:
    """What the run file's table says of one scan."""

    split: str | None
    group: Group | None
    labels: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Mask:
    """The segmentation of an image. ``size`` and ``version`` as in ``Source``."""

    uri: str = field(repr=False)
    size: int = field(repr=False)
    version: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PackSource:
    """A source and its key: a file, or a DICOM series, which is several. Its URI and path are never printed: they can
    name a patient."""

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
    told: Mapping[str, Told] = field(default_factory=dict, repr=False)
    """What the table says of single scans, by their keys."""
    unlisted: bool = False
    """Nobody knows which row of the table is about it, so its scans are quarantined."""
    size: int = field(default=0, repr=False)
    version: str = field(default="", repr=False)
    """As in ``Source``."""
    state: SourceState | None = field(default=None, repr=False)
    """What is known of its bytes before it is read."""
    members: tuple[Member, ...] = field(default=(), repr=False)
    """The files of a series (``relative`` is then no path, but what identifies it); none in a source that is a file."""
    beside: tuple[Source, ...] | None = ()
    """The other files of a source of several: a NIfTI pair, a WFDB record. None where the pattern does not list them:
    then nobody knows whether they have changed."""
    copies: int = 0
    """Files of a series that are copies of others in it, and are no members."""
    mask: Mask | None = None
    """What is kept beside its scans (``data.masks: pair``)."""
    place: Place | None = field(default=None, repr=False)
    """Where it lies, if it is inside a zip or tar file."""
    refused: str = ""
    """Why it is not read, in fixed words."""
    inside: tuple[tuple[str, Place], ...] = field(default=(), repr=False)
    """Of one inside a zip or tar file: files there that belong to it, by the suffix in which their names differ."""

    @property
    def places(self) -> list[Place]:
        """Those of its files that are inside zip or tar files."""
        own = [file.place for file in (self.members or (self,)) if file.place is not None]
        return own + [place for _, place in self.inside]

    @property
    def files(self) -> int:
        """How many files it is."""
        return len(self.members) + self.copies or 1

    @property
    def items(self) -> dict[str, str]:
        """URIs of the scans of a series that are one file each, by item."""
        return {f"image/{member.name}": member.uri for member in self.members}


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


def told_key(source: PackSource, keys: KeyMaker) -> str:
    """Key of the labels that the table gives, of all that it says of single scans, and of the segmentation: another one
    where those are others, "" where there are none."""
    members = sorted((member.name, member.labels) for member in source.members if member.labels is not None)
    mask = {"mask": [source.mask.size, source.mask.version]} if source.mask else {}
    if source.labels is None and not source.told and not members and not mask:
        return ""
    scans = {key: [t.split, t.group and t.group.key, t.labels] for key, t in source.told.items()}
    said = {"labels": source.labels, "scans": scans} | ({"members": members} if members else {}) | mask
    return keys.property_key("told", digest_json(said))


class Listing(NamedTuple):
    """The sources to read, and how many others there are, by reason."""

    sources: list[PackSource]
    aside: dict[str, int]


List = Callable[[str | list[str]], list[Source]]
"""The sources of patterns: files, and members of zip and tar files."""


def list_sources(
    data: Data,
    keys: KeyMaker,
    records: Sequence[PackRecord] = (),
    *,
    folder: Path | None = None,
    store: ObjectStore | None = None,
) -> Listing:
    """All sources that the run file names, with their keys, sorted by relative path; and what is set aside. What the
    run file's table says of them is joined later (``table_join``).

    Sources of ``records`` are never set aside: an earlier version, or another run file, has packed them. Zip and tar
    files are opened, and their members are sources; ``folder`` is the private one, where their lists are kept. None may
    be in ``store``. Raises ``RunFileError``.
    """

    def listed(patterns: str | list[str]) -> list[Source]:
        found = expand(patterns)
        if store is not None:
            require_outside_storage(found, store)
        return with_members(found, lambda name: reader_name(data.reader, name), folder, keys)

    aside: Counter[str] = Counter()
    found = _found(data, listed, keys, {key for record in records for key in record.sources}, aside)
    require_some(found, aside)
    return Listing(found, {reason: aside[reason] for reason in sorted(aside)})


def _found(data: Data, listed: List, keys: KeyMaker, packed: Collection[str], aside: Counter[str]) -> list[PackSource]:
    if data.source is not None:
        return _keyed(listed(data.source), keys, data, None, packed, aside)
    if data.splits is None:
        raise RunFileError(
            "there is nothing to pack: the run file names a snapshot, but no scans",
            where="data",
            do="set data.source or data.splits, or leave the pack stage out",
        )
    found = [
        source
        for split, patterns in sorted(data.splits.items())
        for source in _keyed(listed(patterns), keys, data, split, packed, aside)
    ]
    if repeated := len(found) - len({source.uri for source in found}):
        raise RunFileError(
            f"{repeated} source files belong to more than one split",
            where="data.splits",
            do="change the patterns so that each file matches one split",
        )
    return found


def _whole(source: Source) -> bytes:
    """The source's bytes; none where it cannot be read, which is said when it is packed, and of
    members, which are no records."""
    if source.place is not None or source.refused:
        return b""
    try:
        return fetch_from(source.uri)(0, source.size)
    except ScanError:
        return b""


def _keyed(
    listed: Sequence[Source],
    keys: KeyMaker,
    data: Data,
    split: str | None,
    packed: Collection[str],
    aside: Counter[str],
) -> list[PackSource]:
    everything = without_parts(listed, data.reader, _whole)
    places = {source.uri: source.place for source in everything if source.place and other_of_pair(source.uri)}
    kept = list(_kept(everything, keys, data, split, packed, aside))
    loose = [source for source in listed if source.place is None]
    beside = files_beside([source for source, _ in kept if source.place is None], loose, data)
    relatives = [relative for _, relative in kept]
    sources = [source for source, _ in kept]
    groups = _groups(sources, keys, data)
    masks = _masks(everything, sources, aside) if data.masks == "pair" else {}
    return [
        PackSource(
            keys.source_key(relative),
            source.uri,
            relative,
            split,
            source.relative,
            group,
            size=source.size,
            version=source.version,
            mask=masks.get(source.uri),
            beside=beside.get(source.uri, ()),
            place=source.place,
            refused=source.refused or reason_inside(source, data),
            inside=_inside(source, places),
        )
        for source, relative, group in zip(sources, relatives, groups, strict=True)
    ]


def _inside(source: Source, places: Mapping[str, Place]) -> tuple[tuple[str, Place], ...]:
    other = other_of_pair(source.uri) if source.uri in places else None
    place = places.get(other) if other is not None else None
    return ((suffix(str(other)), place),) if place is not None else ()


def _masks(sources: Sequence[Source], images: Sequence[Source], aside: Counter[str]) -> dict[str, Mask]:
    """The segmentation of each image (URI); they are counted in ``aside``, apart from those of no image. What lies
    inside zip and tar files is not paired."""
    sources = [source for source in sources if source.place is None]
    taken = {image.uri for image in images if image.place is None}
    masks = {s.uri: s for s in sources if s.uri not in taken and in_image_format(s) and is_segmentation(s.uri)}
    found, several = pairs(sorted(taken - masks.keys()), sorted(masks))
    if several:
        raise RunFileError(
            f"{several} images have several segmentations",
            where="data.masks: pair",
            do="name only those to pair in data.source or data.splits",
        )
    used = set(found.values())
    aside.update({SEGMENTATION: -len(masks), PAIRED: len(used), UNPAIRED: len(masks) - len(used)})
    for reason in [reason for reason, count in aside.items() if not count]:
        del aside[reason]
    return {image: Mask(uri, masks[uri].size, masks[uri].version) for image, uri in found.items()}


def _kept(
    sources: Sequence[Source],
    keys: KeyMaker,
    data: Data,
    split: str | None,
    packed: Collection[str],
    aside: Counter[str],
) -> Iterator[tuple[Source, str]]:
    """The sources to read, with the paths that identify them; the others are counted in ``aside``."""
    pairs = {source.uri.lower() for source in sources if other_of_pair(source.uri)}
    for source in sources:
        # A pair has one identity, whichever of its files is listed.
        name = values_of_pair(source.relative) if data.reader in (None, "nifti") else source.relative
        # Two splits' folders often use the same file names: the split is then part of what identifies a source.
        relative = name if split is None else f"{split}/{name}"
        reason = reason_aside(source, data, pairs)
        if reason is None or (reason in NAMED and keys.source_key(relative) in packed):
            yield source, relative
        else:
            aside[reason] += 1


def _groups(sources: Sequence[Source], keys: KeyMaker, data: Data) -> Sequence[Group | None]:
    """Whose each source is, as far as its path tells."""
    if isinstance(data.group, Grouping) and data.group.path is not None:
        return _by_path(data.group.path, sources, keys)
    return [group_in_path(source.relative, source.uri, keys) for source in sources]


def _by_path(rule: str, sources: Sequence[Source], keys: KeyMaker) -> list[Group]:
    found = [match.group(1) if (match := re.search(rule, source.relative)) else None for source in sources]
    if unmatched := sum(not text for text in found):
        raise RunFileError(
            f"{unmatched} of {len(sources)} sources have a path in which data.group.path finds no patient",
            where=f"data.group.path: {rule}",
            do="write a rule that matches every path below the fixed part of data.source, or give a table",
        )
    return [Group(keys.group_key("path", str(text)), "path") for text in found]


def require_outside_storage(sources: Sequence[Source], store: ObjectStore) -> None:
    """Files that the run writes must not be scans for the next pack."""
    inside = sum(source.uri.startswith(f"{store.root}/") for source in sources)
    if inside:
        raise RunFileError(
            f"{inside} of {len(sources)} source files lie inside the storage",
            where=f"storage: {store.root}",
            do="choose a storage outside data.source, or narrow data.source to leave the storage out",
        )


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
