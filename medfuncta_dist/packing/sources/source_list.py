"""Which sources the run file names: the archive's files and members, without what is set aside, with keys, groups and
segmentations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from medfuncta_dist.archive.member_lists import reader_name
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.errors import RunFileError, ScanError
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.sources.file_list import FileList
from medfuncta_dist.packing.sources.pack_source import Mask, PackSource
from medfuncta_dist.packing.sources.record_parts import files_beside, stand_alone
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
from medfuncta_dist.packing.sources.source_rows import SourceRows
from medfuncta_dist.packing.work_tables import work_tables
from medfuncta_dist.scans.patient_group import Group, group_in_path
from medfuncta_dist.scans.readers.nifti import HEADERS, other_of_pair, values_of_pair
from medfuncta_dist.scans.readers.signals.wfdb_record import HEADER, WfdbReader
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.scans.segmentation import is_segmentation, pairs
from medfuncta_dist.storage.archive_files.place import Place
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.source_ranges import fetch_from
from medfuncta_dist.storage.sources import Source, suffix

T = TypeVar("T")


class Listing(NamedTuple):
    """The sources to read, and how many others there are, by reason."""

    sources: list[PackSource]
    aside: dict[str, int]


def list_sources(
    data: Data,
    keys: KeyMaker,
    records: Sequence[PackRecord] = (),
    *,
    folder: Path | None = None,
    store: ObjectStore | None = None,
) -> Listing:
    """The sources of ``fill_rows``, in memory, sorted by relative path. ``records``: those of what is packed."""
    packed = {key for record in records for key in record.sources}
    with work_tables(folder) as tables:
        rows = SourceRows(tables)
        aside = fill_rows(rows, FileList(tables), data, keys, packed.__contains__, folder=folder, store=store)
        return Listing(list(rows), aside)


def fill_rows(
    rows: SourceRows,
    files: FileList,
    data: Data,
    keys: KeyMaker,
    packed: Callable[[str], bool],
    *,
    folder: Path | None,
    store: ObjectStore | None,
) -> dict[str, int]:
    """Add all sources that the run file names, with their keys; how many files are set aside, by reason. What the run
    file's table says of them is joined later (``table_join``).

    ``packed`` tells whether a source (key) is packed: it is never set aside, because an earlier version, or another run
    file, has packed it. Zip and tar files are opened, and their members are sources; ``folder`` is the private one,
    where their lists are kept. No file may be in ``store``. Raises ``RunFileError``.
    """
    aside: Counter[str] = Counter()
    for split, patterns in _patterns(data):
        files.fill(patterns)
        if store is not None:
            require_outside_storage(files, store)
        files.open_archives(lambda name: reader_name(data.reader, name), folder, keys)
        rows.add(_keyed(files, keys, data, split, packed, aside))
        files.clear()
    if data.source is None and (repeated := rows.repeated_uris()):
        raise RunFileError(
            f"{repeated} source files belong to more than one split",
            where="data.splits",
            do="change the patterns so that each file matches one split",
        )
    require_some(len(rows), aside)
    return {reason: aside[reason] for reason in sorted(aside)}


def _patterns(data: Data) -> list[tuple[str | None, str | list[str]]]:
    """The patterns of each split; of none, where the run file names none."""
    if data.source is not None:
        return [(None, data.source)]
    if data.splits is None:
        raise RunFileError(
            "there is nothing to pack: the run file names a snapshot, but no scans",
            where="data",
            do="set data.source or data.splits, or leave the pack stage out",
        )
    return sorted(data.splits.items())


def _whole(source: Source) -> bytes:
    """The source's bytes; none where it cannot be read, which is said when it is packed, and of
    members, which are no records."""
    if source.place is not None or source.refused:
        return b""
    try:
        return fetch_from(source.uri)(0, source.size)
    except ScanError:
        return b""


class _Again(Iterable[T]):
    """What can be iterated over again."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[T]:
        return self._begin()


def _keyed(
    files: FileList,
    keys: KeyMaker,
    data: Data,
    split: str | None,
    packed: Callable[[str], bool],
    aside: Counter[str],
) -> Iterator[PackSource]:
    headers = [source for source in files.ending((HEADER,)) if source.uri.endswith(HEADER)]
    own = stand_alone(headers, data.reader, _whole)
    listed = _Again(lambda: filter(own, files))
    halves = frozenset(source.uri.lower() for source in files.ending(chain(*HEADERS.items())) if own(source))
    kept = partial(_kept, listed, keys, data, split, packed, halves)
    loose = _Again(lambda: (source for source, _ in kept(Counter()) if source.place is None))
    beside, masks = {}, _Masks()
    if headers or halves or data.reader == WfdbReader.name:  # no others are of several files
        beside = files_beside(loose, _Again(lambda: (file for file in files if file.place is None)), data)
    if data.masks == "pair":
        masks = _masks((source for source in listed if source.place is None), loose)
    groups = _Groups(keys, data)
    for source, relative in kept(aside):
        yield PackSource(
            keys.source_key(relative),
            source.uri,
            relative,
            split,
            source.relative,
            groups.of(source),
            size=source.size,
            version=source.version,
            mask=masks.of.get(source.uri),
            beside=beside.get(source.uri, ()),
            place=source.place,
            refused=source.refused or reason_inside(source, data),
            inside=_inside(source, files),
        )
    groups.require_all()
    masks.count(aside)


def _inside(source: Source, files: FileList) -> tuple[tuple[str, Place], ...]:
    other = other_of_pair(source.relative) if source.place is not None else None
    file = files.of_relative(other) if other is not None else None
    return ((suffix(file.uri), file.place),) if file is not None and file.place is not None else ()


@dataclass(frozen=True)
class _Masks:
    """The segmentation of each image (URI). ``used`` of ``found`` are of any image."""

    of: Mapping[str, Mask] = field(default_factory=dict)
    found: int = 0
    used: int = 0

    def count(self, aside: Counter[str]) -> None:
        """They are counted apart from those of no image."""
        aside.update({SEGMENTATION: -self.found, PAIRED: self.used, UNPAIRED: self.found - self.used})
        for reason in [reason for reason, count in aside.items() if not count]:
            del aside[reason]


def _masks(sources: Iterable[Source], images: Iterable[Source]) -> _Masks:
    """What lies inside zip and tar files is not paired. The names of all images and segmentations are in memory."""
    taken = {image.uri for image in images}
    masks = {s.uri: s for s in sources if s.uri not in taken and in_image_format(s) and is_segmentation(s.uri)}
    found, several = pairs(sorted(taken), sorted(masks))
    if several:
        raise RunFileError(
            f"{several} images have several segmentations",
            where="data.masks: pair",
            do="name only those to pair in data.source or data.splits",
        )
    of = {image: Mask(uri, masks[uri].size, masks[uri].version) for image, uri in found.items()}
    return _Masks(of, len(masks), len(set(found.values())))


def _kept(
    sources: Iterable[Source],
    keys: KeyMaker,
    data: Data,
    split: str | None,
    packed: Callable[[str], bool],
    halves: Collection[str],
    aside: Counter[str],
) -> Iterator[tuple[Source, str]]:
    """The sources to read, with the paths that identify them; the others are counted in ``aside``. ``halves``: the URIs
    of files of pairs, in lower case."""
    for source in sources:
        # A pair has one identity, whichever of its files is listed.
        name = values_of_pair(source.relative) if data.reader in (None, "nifti") else source.relative
        # Two splits' folders often use the same file names: the split is then part of what identifies a source.
        relative = name if split is None else f"{split}/{name}"
        reason = reason_aside(source, data, halves)
        if reason is None or (reason in NAMED and packed(keys.source_key(relative))):
            yield source, relative
        else:
            aside[reason] += 1


class _Groups:
    """Whose each source is, as far as its path tells."""

    def __init__(self, keys: KeyMaker, data: Data) -> None:
        self._keys, self._rule = keys, data.group.path if isinstance(data.group, Grouping) else None
        self._asked = self._unmatched = 0

    def of(self, source: Source) -> Group | None:
        """The group of a source, if its path tells one."""
        if self._rule is None:
            return group_in_path(source.relative, source.uri, self._keys)
        match = re.search(self._rule, source.relative)
        text = match.group(1) if match else None
        self._asked, self._unmatched = self._asked + 1, self._unmatched + (not text)
        return Group(self._keys.group_key("path", text), "path") if text else None

    def require_all(self) -> None:
        """RunFileError where the run file's rule has not matched every source."""
        if self._unmatched:
            raise RunFileError(
                f"{self._unmatched} of {self._asked} sources have a path in which data.group.path finds no patient",
                where=f"data.group.path: {self._rule}",
                do="write a rule that matches every path below the fixed part of data.source, or give a table",
            )


def require_outside_storage(files: FileList, store: ObjectStore) -> None:
    """Files that the run writes must not be scans for the next pack."""
    if inside := files.below(store.root):
        raise RunFileError(
            f"{inside} of {len(files)} source files lie inside the storage",
            where=f"storage: {store.root}",
            do="choose a storage outside data.source, or narrow data.source to leave the storage out",
        )
