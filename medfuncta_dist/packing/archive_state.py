"""The archive as the pack stage finds it: surveyed, and compared with what the data set holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from medfuncta_dist.archive.changes import Changes, SourceState
from medfuncta_dist.archive.inventory import INVENTORY, Listed, Row, locked, read_inventory
from medfuncta_dist.archive.member_lists import forget_lists
from medfuncta_dist.archive.survey import OnSurvey, adopt, digest_contents, stamp, survey_ordered
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.packing.archive_listing import Archive
from medfuncta_dist.packing.archive_sources import ArchiveSources
from medfuncta_dist.packing.dicom_masks import ROWS, take_masks
from medfuncta_dist.packing.pack_plan import Superseded, solid_archive, window
from medfuncta_dist.packing.present_sources import Present, PresentSources
from medfuncta_dist.packing.reassigned_sources import overwritten, reassigned
from medfuncta_dist.packing.sources.copy_conflicts import NO_CONFLICTS, CopyConflicts, copy_conflicts
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.record_parts import record_content
from medfuncta_dist.packing.sources.series_sources import (
    COLUMNS,
    TOLD,
    SeriesSources,
    is_series,
    packed_key,
    placed_anew,
)
from medfuncta_dist.packing.sources.set_aside import require_some
from medfuncta_dist.packing.sources.source_rows import SourceRows
from medfuncta_dist.packing.sources.source_table import SourceTable
from medfuncta_dist.packing.sources.table_join import Joined, TableJoin
from medfuncta_dist.packing.work_tables import in_batches, work_tables
from medfuncta_dist.scans.private.forgotten_list import NOTHING_FORGOTTEN, Forgotten
from medfuncta_dist.scans.private.private_mapping import open_mapping
from medfuncta_dist.scans.readers.reader_registry import reader_for
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.sources import Source
from medfuncta_dist.task_map import FanOut

STATE_COLUMNS = ["relative", "identity", "size", "version", "probe", "content"]


@dataclass(frozen=True)
class ArchiveState:
    """``sources`` are those that the archive holds. ``changes`` are by key.

    identities: by relative path, what the inventory does not hold yet.
    reassigned: keys of packed sources whose file is now in another split, or another patient's, or has other labels.
    joined: how the table fits the sources. conflicts: copies of which something else is said than of what they copy.
    """

    sources: ArchiveSources = field(repr=False)
    changes: Changes = field(repr=False)
    inventory: Path
    stamp: tuple[int, int]
    salt: str
    """The salt's fingerprint."""
    identities: Mapping[str, str] = field(repr=False)
    reassigned: frozenset[str] = frozenset()
    joined: Joined = field(default_factory=lambda: Joined([]), repr=False)
    conflicts: CopyConflicts = NO_CONFLICTS
    aside: dict[str, int] = field(default_factory=dict)
    """How many files are not read, by reason."""

    def superseded(self, removed: str, base: str) -> Superseded:
        """The packed sources that are not in the next snapshot as they are; ``removed`` as in the run file."""
        again = {*self.changes.changed, *self.changes.copied, *self.reassigned}
        return Superseded(frozenset(again | set(self.changes.removed if removed == "drop" else ())), base)

    def adopt(self) -> None:
        """Make the survey the inventory of the last pack."""
        with locked(self.inventory.parent):
            adopt(self.inventory.parent, self.stamp, self.salt, self.identities, self.sources.digests)


def examine(
    archive: Archive,
    store: ObjectStore,
    on_survey: OnSurvey,
    table: SourceTable | None = None,
    forgotten: Forgotten = NOTHING_FORGOTTEN,
    fan_out: FanOut | None = None,
) -> ArchiveState:
    """Survey the files, join the owner's table, and compare them with the records that count; without those that are
    known to be forgotten before their contents are. To be called inside ``locked``. RunFileError where the table does
    not fit the sources."""
    data, folder, keys, files, packed = archive.data, archive.folder, archive.keys, archive.files, archive.packed
    path = _surveyed(archive, on_survey, fan_out)
    _leave_out_forgotten(archive, path, forgotten)
    masks = take_masks(files, lambda: with_rows(files, read_inventory(path, keys.fingerprint(), ROWS)), data, keys)
    require_some(len(files), aside := dict(Counter(archive.aside) + Counter(masks.aside)))
    joined = _with_table(archive, table, path)
    packed.learn(_earlier_states(folder, keys))
    present, series = PresentSources(archive.tables), SeriesSources(archive.tables, data, keys, masks.pairs)
    sources = ArchiveSources(archive.tables, series)
    inside = _take(archive, path, present, series)
    _compare_doubles(archive, sources, series)
    mended = present.mend_names(keys)
    present.add(_of_series(series.sources()))
    present.mark_fresh()
    present.mark_unsure(several_kinds=inside)
    _read_unsure(archive, sources, present, series)
    first = present.compared(packed)
    joined = _with_scans(archive, joined, table, first, sources, series)
    conflicts = copy_conflicts(first.copied, sources, table, folder)
    anew = reassigned(first, sources, table, store, packed, keys)
    anew |= overwritten(set(first.removed), files, folder, keys) | (masks.keys & set(first.removed))
    changes = present.compared_without(packed, anew) if anew else first
    known_as = _identities(set(changes.renamed.values()), folder, keys)
    sources.decide(changes, known_as)
    sources.keep_moved(chain(changes.renamed.values(), _elsewhere(archive, series)))
    kept = {sources[k].relative: known_as[former] for k, former in changes.renamed.items() if former in known_as}
    return ArchiveState(
        sources,
        changes,
        path,
        stamp(path),
        keys.fingerprint(),
        mended | kept,
        anew,
        joined,
        conflicts,
        {reason: aside[reason] for reason in sorted(aside)},
    )


def _surveyed(archive: Archive, on_survey: OnSurvey, fan_out: FanOut | None) -> Path:
    """The survey of the files; lists of archive files that are no longer among them are deleted."""
    files, data = archive.files, archive.data
    listed = (_listed(source, data) for source in files)
    inside = (_listed(source, data) for source in files.with_more() if source.place)
    path = survey_ordered(listed, len(files), inside, archive.folder, archive.keys, on_survey, fan_out)
    forget_lists(archive.folder, {source.place.archive if source.place else source.uri for source in files.with_more()})
    return path


def with_rows(sources: Iterable[PackSource], rows: Iterator[Row]) -> Iterator[tuple[PackSource, Row | None]]:
    """Each source and its row of an inventory; both are sorted by relative path."""
    row = next(rows, None)
    for source in sources:
        while row is not None and row["relative"] < source.relative:
            row = next(rows, None)
        yield source, row if row is not None and row["relative"] == source.relative else None


def without_forgotten(
    sources: Iterable[PackSource], inventory: Path, data: Data, keys: KeyMaker, forgotten: Forgotten
) -> list[PackSource]:
    """The sources, sorted by relative path, without files of forgotten patients and DICOM series, which the inventory
    knows."""
    if not (forgotten.sources or forgotten.groups):
        return list(sources)
    ordered = sorted(sources, key=lambda source: source.relative)
    rows = read_inventory(inventory, keys.fingerprint(), sorted({*COLUMNS, "identity"}))
    return [s for s, row in with_rows(ordered, rows) if not _is_forgotten(s, row, data, keys, forgotten)]


def _leave_out_forgotten(archive: Archive, survey: Path, forgotten: Forgotten) -> None:
    if forgotten.sources or forgotten.groups:
        rows = read_inventory(survey, archive.keys.fingerprint(), sorted({*COLUMNS, "identity"}))
        found = with_rows(archive.files, rows)
        gone = (s.relative for s, row in found if _is_forgotten(s, row, archive.data, archive.keys, forgotten))
        for batch in in_batches(gone):
            archive.files.remove(batch)


def _is_forgotten(source: PackSource, row: Row | None, data: Data, keys: KeyMaker, forgotten: Forgotten) -> bool:
    if row is not None and packed_key(row, data, keys) in forgotten.sources:
        return True
    return _of_forgotten(source, row is not None and row["patient"] is not None, forgotten)


def _of_forgotten(source: PackSource, named: bool, forgotten: Forgotten) -> bool:
    """Whether the source is a forgotten patient's. ``named``: its file names a patient, who goes before its folder."""
    group = source.group
    return group is not None and group.key in forgotten.groups and (not named or group.by in TOLD)


def _with_table(archive: Archive, table: SourceTable | None, survey: Path) -> Joined:
    """Join the table with the files, unless its rows are about scans."""
    if table is None or table.by == "key":
        return Joined([])
    join, files = TableJoin(table, archive.keys), archive.files
    columns = ["relative"] if table.by == "path" else ["relative", table.by]
    found = with_rows(files, read_inventory(survey, archive.keys.fingerprint(), columns))
    files.replace(join.of_file(source, row.get(table.by) if row else None) for source, row in found)
    return join.joined()


def _with_scans(
    archive: Archive,
    joined: Joined,
    table: SourceTable | None,
    found: Changes,
    sources: ArchiveSources,
    series: SeriesSources,
) -> Joined:
    """Join a table that is about scans with all sources, under the names that they are packed with."""
    if table is None or table.by != "key":
        return joined
    known_as = _identities(set(found.renamed.values()), archive.folder, archive.keys)
    join = TableJoin(table, archive.keys)
    with open_mapping(archive.folder) as mapping:
        for key, name, source in sources.listed():
            identity = known_as.get(found.renamed.get(key, key), name or source.relative)
            told = join.of_scans(source, identity, mapping, copied=key in found.copied)
            if source.members:
                series.tell([told])
            else:
                archive.files.add([told])
    return join.joined()


def _take(archive: Archive, survey: Path, present: PresentSources, series: SeriesSources) -> bool:
    """Sort the surveyed files into present sources and files of series; whether any of the former is inside an archive
    file."""
    keys, inside = archive.keys, False
    rows = read_inventory(survey, keys.fingerprint(), sorted({*STATE_COLUMNS, *COLUMNS}))

    def found() -> Iterator[Present]:
        nonlocal inside
        for source, row in with_rows(archive.files, rows):
            if row is None or series.take(row, state := _state(row, keys)):
                continue
            inside = inside or source.place is not None
            state = _with_beside(state, source.beside, keys)
            name = row["identity"] if row["identity"] != source.relative else None
            key = source.key if name is None else keys.source_key(name)
            in_s3 = source.place is None and source.uri.startswith("s3://")
            told = source.labels is not None or bool(source.told) or source.mask is not None
            yield Present(
                source.relative,
                key,
                state,
                source.size,
                name,
                _kind_of_probe(source, state),
                in_s3,
                told,
                solid=solid_archive(source),
                window=window(source),
            )

    present.add(found())
    series.ready()
    return inside


def _of_series(series: Iterable[PackSource]) -> Iterator[Present]:
    for source in series:
        labelled = source.labels is not None or any(member.labels is not None for member in source.members)
        assert source.state is not None
        yield Present(
            source.relative,
            source.key,
            source.state,
            source.size,
            by_etag=source.uri.startswith("s3://"),
            watched=labelled or source.mask is not None or placed_anew(source),
            files=source.files,
            solid=solid_archive(source),
            window=window(source),
        )


def _compare_doubles(archive: Archive, sources: ArchiveSources, series: SeriesSources) -> None:
    """Read the files that may be copies of others in their series."""
    for batch in in_batches(series.doubles()):
        contents = _contents(batch, archive)
        sources.keep_digests(contents)
        series.learn(_content_keys(contents, archive.keys))


def _read_unsure(archive: Archive, sources: ArchiveSources, present: PresentSources, series: SeriesSources) -> None:
    """Read the files whose content has to be known, to tell what has become of their sources."""
    for batch in in_batches(present.unsure()):
        files = {relative: key for relative, key in batch if not is_series(relative)}
        whole = [key for relative, key in batch if is_series(relative)]
        members = [relative for key in whole for relative in series.without_content(key)]
        contents = _contents(sorted([*files, *members]), archive)
        several = {r: s for r in files if (s := archive.files.of_relative(r)) and s.beside != ()}
        contents = {relative: content for relative, content in contents.items() if relative not in several}
        known = _content_keys(contents, archive.keys)
        series.learn({relative: content for relative, content in known.items() if relative not in files})
        known |= _joint_contents(several, archive.keys)
        present.learn_contents((files[relative], content) for relative, content in known.items() if relative in files)
        present.learn((s.key, s.state) for s in series.sources(whole) if s.state is not None)
        sources.keep_digests(contents)
    present.mark_again()


def _contents(relatives: Iterable[str], archive: Archive) -> dict[str, str]:
    found = (archive.files.of_relative(relative) for relative in relatives)
    return digest_contents([_listed(source, archive.data) for source in found if source is not None])


def _with_beside(state: SourceState, beside: Sequence[Source] | None, keys: KeyMaker) -> SourceState:
    """The state of a source of several files, of which the inventory has the first."""
    if beside == ():
        return state
    if beside is None:
        return replace(state, probe="", content="")
    sizes, versions = [str(file.size) for file in beside], [file.version for file in beside]
    version = keys.property_key("versions", state.version, *versions) if state.version and all(versions) else ""
    return SourceState(keys.property_key("sizes", state.size, *sizes), version, state.probe)


def _joint_contents(several: Mapping[str, PackSource], keys: KeyMaker) -> dict[str, str]:
    """Contents (keys) of sources of several files, by relative path, of those that can be read whole."""
    found = {}
    for relative, first in several.items():
        files = [(first.uri, first.size), *((file.uri, file.size) for file in first.beside or ())]
        if first.beside and (content := record_content(files, keys)):
            found[relative] = content
    return found


def _content_keys(contents: Mapping[str, str], keys: KeyMaker) -> dict[str, str]:
    return {relative: keys.property_key("content", content) for relative, content in contents.items()}


def _kind_of_probe(source: PackSource, state: SourceState) -> str:
    """Of objects, and of what is inside them; "" where all that could be copies of it are known by their content."""
    if not source.uri.startswith("s3://") or source.refused:
        return ""
    if source.place is None:
        return "" if state.content else "etag"
    return "bytes" if state.content or source.place.kind != "zip" else "checksum"


def _elsewhere(archive: Archive, series: SeriesSources) -> Iterator[str]:
    """The sources of which a file is not where the last pack found it: the archive has moved, or files of a series."""
    places, keys = archive.files.places(), archive.keys
    columns = sorted({*COLUMNS, "identity", "uri"})
    now = next(places, None)
    for row in read_inventory(archive.folder / INVENTORY, keys.fingerprint(), columns):
        while now is not None and now[0] < row["relative"]:
            now = next(places, None)
        elsewhere = now is not None and now[0] == row["relative"] and now[1] != row["uri"]
        if (key := series.key_of(row)) is None:
            if elsewhere:
                yield keys.source_key(row["identity"])
        elif elsewhere or not series.holds(row):
            yield key


def under_packed_names(sources: Iterable[PackSource], folder: Path, keys: KeyMaker, data: Data) -> list[PackSource]:
    """The sources under the keys that they were packed with, in that order: renamed files keep theirs, and files of a
    DICOM series are one source."""
    with work_tables(folder) as tables:
        files, inventory, salt = SourceRows(tables), folder / INVENTORY, keys.fingerprint()
        files.add(sources)
        masks = take_masks(files, lambda: with_rows(files, read_inventory(inventory, salt, ROWS)), data, keys)
        series, found = SeriesSources(tables, data, keys, masks.pairs), []
        rows = read_inventory(inventory, salt, sorted({*STATE_COLUMNS, *COLUMNS}))
        for source, row in with_rows(files, rows):
            if row is None or not series.take(row, _state(row, keys)):
                name = source.relative if row is None else row["identity"]
                renamed = name != source.relative
                found.append(replace(source, key=keys.source_key(name), relative=name) if renamed else source)
        series.ready()
        return sorted([*found, *series.sources()], key=lambda source: source.relative)


def _listed(source: PackSource, data: Data) -> Listed:
    reader = "" if source.refused else reader_for(data.reader, source.uri).name
    return Listed(
        source.relative, source.uri, source.size, source.version, reader, place=source.place, refused=source.refused
    )


def _state(row: Row, keys: KeyMaker) -> SourceState:
    """An empty file has no content that could be recognised."""
    size = str(row["size"])
    probe, content = (row[name] if row["size"] else None for name in ("probe", "content"))
    return SourceState(
        keys.property_key("size", size),
        keys.property_key("version", size, row["version"]) if row["version"] else "",
        keys.property_key("probe", size, probe) if probe else "",
        keys.property_key("content", content) if content else "",
    )


def _earlier_states(folder: Path, keys: KeyMaker) -> Iterator[tuple[str, SourceState]]:
    """What the inventory of the last pack knows of the files that were packed, by key."""
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), STATE_COLUMNS):
        yield keys.source_key(row["identity"]), _state(row, keys)


def _identities(wanted: Collection[str], folder: Path, keys: KeyMaker) -> dict[str, str]:
    """The identities of packed sources (keys) that are in the inventory of the last pack."""
    rows = read_inventory(folder / INVENTORY, keys.fingerprint(), ["identity"]) if wanted else ()
    return {key: row["identity"] for row in rows if (key := keys.source_key(row["identity"])) in wanted}
