"""Which sources the run file names: the archive's files and members, without what is set aside, with keys, groups and
segmentations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medfuncta_dist.archive.member_lists import reader_name, with_members
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.errors import RunFileError, ScanError
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.sources.pack_source import Mask, PackSource
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
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.source_ranges import fetch_from
from medfuncta_dist.storage.sources import Source, expand, suffix


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
