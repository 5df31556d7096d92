"""The archive as the pack stage finds it: surveyed, and compared with what the data set holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfuncta_dist.archive.changes import Changes, SourceState, compare, doubtful, not_comparable
from medfuncta_dist.archive.inventory import INVENTORY, Listed, Row, locked, read_inventory
from medfuncta_dist.archive.member_lists import forget_lists
from medfuncta_dist.archive.series_sums import in_series
from medfuncta_dist.archive.survey import OnSurvey, adopt, digest_contents, stamp, survey
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.packing.pack_plan import Superseded
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.sources.copy_conflicts import NO_CONFLICTS, CopyConflicts, copy_conflicts
from medfuncta_dist.packing.sources.pack_source import PackSource, told_key
from medfuncta_dist.packing.sources.record_parts import record_content
from medfuncta_dist.packing.sources.series_sources import (
    COLUMNS,
    TOLD,
    SeriesSources,
    names_patient,
    packed_key,
    series_identity,
    told,
)
from medfuncta_dist.packing.sources.source_table import SourceTable
from medfuncta_dist.packing.sources.table_join import Joined, join_keys, join_table
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.private.forgotten_list import NOTHING_FORGOTTEN, Forgotten
from medfuncta_dist.scans.readers.reader_registry import reader_for
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.sources import Source
from medfuncta_dist.task_map import FanOut

IN_FILE = ("patient", "file")
"""Of ``WAYS``: the file itself tells."""
OTHER = SourceState(size="other")
"""No present source is like that."""
STATE_COLUMNS = ["relative", "identity", "size", "version", "probe", "content"]


@dataclass(frozen=True)
class ArchiveState:
    """``sources`` are those that are packed, or are to be, with the keys under which they are. ``changes`` are by key.

    identities, contents: by relative path, what the inventory does not hold yet.
    moved: keys of packed sources that are now under another path or URI; of a series, that any of its files is.
    reassigned: keys of packed sources whose file is now in another split, or another patient's, or has other labels.
    joined: how the table fits the sources. conflicts: copies of which something else is said than of what they copy.
    """

    sources: list[PackSource] = field(repr=False)
    changes: Changes = field(repr=False)
    inventory: Path
    stamp: tuple[int, int]
    salt: str
    """The salt's fingerprint."""
    identities: Mapping[str, str] = field(repr=False)
    contents: Mapping[str, str] = field(repr=False)
    moved: frozenset[str] = frozenset()
    reassigned: frozenset[str] = frozenset()
    joined: Joined = field(default_factory=lambda: Joined([]), repr=False)
    conflicts: CopyConflicts = NO_CONFLICTS

    def superseded(self, removed: str, base: str) -> Superseded:
        """The packed sources that are not in the next snapshot as they are; ``removed`` as in the run file."""
        again = {*self.changes.changed, *self.changes.copied, *self.reassigned}
        return Superseded(frozenset(again | set(self.changes.removed if removed == "drop" else ())), base)

    def without(self, forgotten: Forgotten) -> ArchiveState:
        """The state without sources that are recognised by their content as forgotten ones."""
        contents = (source.state.content if source.state else "" for source in self.sources)
        held = [
            s.key in forgotten.sources or c in forgotten.contents for s, c in zip(self.sources, contents, strict=True)
        ]
        return replace(self, sources=[s for s, gone in zip(self.sources, held, strict=True) if not gone])

    def adopt(self) -> None:
        """Make the survey the inventory of the last pack."""
        with locked(self.inventory.parent):
            adopt(self.inventory.parent, self.stamp, self.salt, self.identities, self.contents)


def examine(
    store: ObjectStore,
    data: Data,
    sources: Sequence[PackSource],
    records: Sequence[PackRecord],
    folder: Path,
    keys: KeyMaker,
    on_survey: OnSurvey,
    table: SourceTable | None = None,
    forgotten: Forgotten = NOTHING_FORGOTTEN,
    fan_out: FanOut | None = None,
) -> ArchiveState:
    """Survey the sources, join the owner's table, and compare them with the ``records`` that count; without those that
    are known to be forgotten before their contents are. To be called inside ``locked``. RunFileError where the table
    does not fit the sources."""
    path = survey([_listed(source, data) for source in sources], folder, keys, on_survey, fan_out)
    forget_lists(folder, {source.place.archive if source.place else source.uri for source in sources})
    joined = join_table(without_forgotten(sources, path, data, keys, forgotten), table, path, keys)
    by_path = {source.relative: source for source in joined.sources}
    beside = {source.relative: source.beside for source in joined.sources if source.beside != ()}
    packed = _packed(records, folder, keys)
    names, found, series = _surveyed(path, by_path, data, keys, packed)
    copies = _contents(series.doubles(), by_path, data)
    series.learn(_content_keys(copies, keys))
    identities = _distinct(names, found)
    key_of = {r: keys.source_key(identities[r]) if r in identities else by_path[r].key for r in found}
    present = {key_of[relative]: state for relative, state in found.items()} | _states(series.sources())
    unsure = _unsure(packed, present, found, key_of, by_path, series)
    inside = series.without_content(unsure) | {r for r, key in key_of.items() if key in unsure}
    contents = _contents(inside, by_path, data)
    known = _content_keys({r: c for r, c in contents.items() if r not in beside}, keys)
    known |= _joint_contents({r: b for r, b in beside.items() if key_of.get(r) in unsure}, by_path, keys)
    for relative in known.keys() & key_of.keys():
        present[key_of[relative]] = replace(present[key_of[relative]], content=known[relative])
    series.learn(known)
    present |= _states(series.sources())
    first = compare(packed, present)
    joined = replace(joined, sources=[*(s for s in joined.sources if s.relative in key_of), *series.sources()])
    joined = _by_scans(joined, table, first, key_of, identities, folder, keys)
    by_key = {key_of.get(source.relative, source.key): source for source in joined.sources}
    conflicts = copy_conflicts(first.copied, by_key, table, folder)
    reassigned = _reassigned(first, by_key, table, store, records, keys)
    reassigned |= {former for key, former in first.renamed.items() if by_key[key].members}
    reassigned |= _overwritten(set(first.removed), by_path, folder, keys)
    reassigned |= _opened(set(first.removed), by_path.values(), keys)
    changes = compare(packed | dict.fromkeys(reassigned & packed.keys(), OTHER), present) if reassigned else first
    known_as = _identities(set(changes.renamed.values()), folder, keys)
    kept = {r: known_as[changes.renamed[k]] for r, k in key_of.items() if changes.renamed.get(k) in known_as}
    return ArchiveState(
        _wanted(by_key, identities, key_of, present, changes, known_as),
        changes,
        path,
        stamp(path),
        keys.fingerprint(),
        {r: i for r, i in (identities | kept).items() if r != i},
        {r: c for r, c in contents.items() if r not in beside} | copies,
        frozenset(changes.renamed.values()) | _elsewhere(by_path, series, folder, keys),
        reassigned,
        joined,
        conflicts,
    )


def _wanted(
    by_key: Mapping[str, PackSource],
    identities: Mapping[str, str],
    key_of: Mapping[str, str],
    present: Mapping[str, SourceState],
    changes: Changes,
    known_as: Mapping[str, str],
) -> list[PackSource]:
    """The sources that are packed, or are to be, in the order in which repair finds them again."""
    resolved = (
        source if source.members else _resolved(source, identities, key_of, present, changes, known_as)
        for source in by_key.values()
    )
    wanted = (source for source in resolved if source.key not in changes.copied)
    return sorted(wanted, key=lambda source: source.relative)


def _unsure(
    packed: Mapping[str, SourceState],
    present: Mapping[str, SourceState],
    found: Mapping[str, SourceState],
    key_of: Mapping[str, str],
    by_path: Mapping[str, PackSource],
    series: SeriesSources,
) -> set[str]:
    """Keys of the present sources whose content has to be known, to tell what has become of them."""
    # The states of files that are as they were are those of the records, and nobody asks about them.
    other = {r for r, key in key_of.items() if found[r] is not packed.get(key) and by_path[r].place is None}
    by_etag = {key_of[r] for r in other if by_path[r].uri.startswith("s3://")}
    by_etag |= {source.key for source in series.sources() if source.uri.startswith("s3://")}
    kinds = _kinds_of_probes(by_path, found, key_of)
    return {*doubtful(packed, present, by_etag), *not_comparable(packed, present, kinds)}


def _by_scans(
    joined: Joined,
    table: SourceTable | None,
    found: Changes,
    key_of: Mapping[str, str],
    identities: Mapping[str, str],
    folder: Path,
    keys: KeyMaker,
) -> Joined:
    """Joined with the rows of a table that is about scans: under the names that sources are packed with."""
    if table is None or table.by != "key":
        return joined
    known_as = _identities(set(found.renamed.values()), folder, keys)
    names = {r: known_as.get(found.renamed.get(key, key), identities.get(r, r)) for r, key in key_of.items()}
    copied = {s.relative for s in joined.sources if key_of.get(s.relative, s.key) in found.copied}
    return join_keys(joined, table, folder, keys, names, copied)


def without_forgotten(
    sources: Sequence[PackSource], inventory: Path, data: Data, keys: KeyMaker, forgotten: Forgotten
) -> list[PackSource]:
    """The sources without files of forgotten patients and DICOM series, which the inventory knows."""
    if not (forgotten.sources or forgotten.groups):
        return list(sources)
    gone, named = set(), set()
    for row in read_inventory(inventory, keys.fingerprint(), sorted({*COLUMNS, "identity"})):
        if packed_key(row, data, keys) in forgotten.sources:
            gone.add(row["relative"])
        elif row["patient"] is not None:
            named.add(row["relative"])
    return [s for s in sources if s.relative not in gone and not _of_forgotten(s, s.relative in named, forgotten)]


def _of_forgotten(source: PackSource, named: bool, forgotten: Forgotten) -> bool:
    """Whether the source is a forgotten patient's. ``named``: its file names a patient, who goes before its folder."""
    group = source.group
    return group is not None and group.key in forgotten.groups and (not named or group.by in TOLD)


def _surveyed(
    path: Path, by_path: Mapping[str, PackSource], data: Data, keys: KeyMaker, packed: Mapping[str, SourceState]
) -> tuple[dict[str, str], dict[str, SourceState], SeriesSources]:
    """By relative path, of the sources that are files: identities, where they are others, and states; and the series of
    all others. A state that is as packed is the same object."""
    names, found, series = {}, {}, SeriesSources(data, keys)
    for row in read_inventory(path, keys.fingerprint(), sorted({*STATE_COLUMNS, *COLUMNS})):
        source, state = by_path.get(row["relative"]), _state(row, keys)
        if source is None or series.take(source, row, state):
            continue
        state = _with_beside(state, source.beside, keys)
        former = packed.get(source.key) if row["identity"] == source.relative else None
        found[source.relative] = former if former == state else state
        if row["identity"] != source.relative:
            names[source.relative] = row["identity"]
    return names, found, series


def _contents(relatives: Collection[str], by_path: Mapping[str, PackSource], data: Data) -> dict[str, str]:
    return digest_contents([_listed(by_path[relative], data) for relative in sorted(relatives)])


def _with_beside(state: SourceState, beside: Sequence[Source] | None, keys: KeyMaker) -> SourceState:
    """The state of a source of several files, of which the inventory has the first."""
    if beside == ():
        return state
    if beside is None:
        return replace(state, probe="", content="")
    sizes, versions = [str(file.size) for file in beside], [file.version for file in beside]
    version = keys.property_key("versions", state.version, *versions) if state.version and all(versions) else ""
    return SourceState(keys.property_key("sizes", state.size, *sizes), version, state.probe)


def _joint_contents(
    beside: Mapping[str, Sequence[Source] | None], by_path: Mapping[str, PackSource], keys: KeyMaker
) -> dict[str, str]:
    """Contents (keys) of sources of several files, by relative path, of those that can be read whole."""
    found = {}
    for relative, others in beside.items():
        first = by_path[relative]
        files = [(first.uri, first.size), *((file.uri, file.size) for file in others or ())]
        if others and (content := record_content(files, keys)):
            found[relative] = content
    return found


def _content_keys(contents: Mapping[str, str], keys: KeyMaker) -> dict[str, str]:
    return {relative: keys.property_key("content", content) for relative, content in contents.items()}


def _states(sources: Iterable[PackSource]) -> dict[str, SourceState]:
    return {source.key: source.state for source in sources if source.state is not None}


def _reassigned(
    found: Changes,
    sources: Mapping[str, PackSource],
    table: SourceTable | None,
    store: ObjectStore,
    records: Sequence[PackRecord],
    keys: KeyMaker,
) -> frozenset[str]:
    """Packed sources that were moved to where the run file, its table or the path tells another split or patient, or of
    which the table does so where they are: they are packed again, or a patient's scans could be in two splits. The
    files of a series may have moved where it is the same; where they name no patient, their folder does. And those that
    have other labels in the table than they were packed with."""
    now = {former: sources[key] for key, former in found.renamed.items()}
    same = {key: sources[key] for key in found.same}
    labelled = _labelled_otherwise(now | same, table, records, keys)
    placed_anew = {k: s for k, s in same.items() if s.members and (told(s) or not names_patient(s))}
    now |= same if table is not None else placed_anew
    placing = {key for key, source in now.items() if source.split is not None or source.group is not None}
    placed = _packed_as(placing - labelled, store, records)
    return frozenset(key for key, split, group in placed if _is_other(now[key], split, group)) | labelled


def _labelled_otherwise(
    sources: Mapping[str, PackSource], table: SourceTable | None, records: Sequence[PackRecord], keys: KeyMaker
) -> frozenset[str]:
    """Packed sources whose labels in the table are others than those that they were packed with.

    Earlier versions did not keep these: the table of ``data.group``, which they had, cannot be added later, so that
    sources of which nothing is known count as the same.
    """
    before = {key: record.told.get(key, "") for record in records for key in record.sources if key in sources}
    if table is not None and table.where != "data.table":
        before = {key: said for key, said in before.items() if said}
    return frozenset(key for key, said in before.items() if told_key(sources[key], keys) != said)


def _overwritten(removed: Collection[str], listed: Collection[str], folder: Path, keys: KeyMaker) -> set[str]:
    """The series that are gone because their files, which are still there, now say another patient, study or series."""
    if not removed:
        return set()
    rows = read_inventory(folder / INVENTORY, keys.fingerprint(), COLUMNS)
    former = (keys.source_key(series_identity(row)) for row in rows if in_series(row) and row["relative"] in listed)
    return {key for key in former if key in removed}


def _kinds_of_probes(
    by_path: Mapping[str, PackSource], found: Mapping[str, SourceState], key_of: Mapping[str, str]
) -> dict[str, str]:
    """By key; none in an archive without zip and tar files, where all probes are of one kind."""
    if all(by_path[relative].place is None for relative in found):
        return {}
    kinds = ((key_of[relative], _kind_of_probe(by_path[relative], state)) for relative, state in found.items())
    return {key: kind for key, kind in kinds if kind}


def _kind_of_probe(source: PackSource, state: SourceState) -> str:
    """Of objects, and of what is inside them; "" where all that could be copies of it are known by their content."""
    if not source.uri.startswith("s3://") or source.refused:
        return ""
    if source.place is None:
        return "" if state.content else "etag"
    return "bytes" if state.content or source.place.kind != "zip" else "checksum"


def _opened(removed: Collection[str], sources: Iterable[PackSource], keys: KeyMaker) -> set[str]:
    """Archive files that were quarantined whole, and can now be read."""
    if not removed:
        return set()
    inside = ((source, source.place.archive) for source in sources if source.place is not None)
    archives = {source.relative[: len(archive) - len(source.uri)] for source, archive in inside}
    return {key for archive in archives if (key := keys.source_key(archive)) in removed}


def _elsewhere(listed: Mapping[str, PackSource], series: SeriesSources, folder: Path, keys: KeyMaker) -> frozenset[str]:
    """The sources of which a file is not where the last pack found it: the archive has moved, or files of a series."""
    moved = set()
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), sorted({*COLUMNS, "identity", "uri"})):
        now = listed.get(row["relative"])
        elsewhere = now is not None and now.uri != row["uri"]
        if (key := series.key_of(row)) is None:
            moved |= {keys.source_key(row["identity"])} if elsewhere else set()
        elif elsewhere or not series.holds(row):
            moved.add(key)
    return frozenset(moved)


def _is_other(source: PackSource, split: str, group: Group | None) -> bool:
    """Whether the source's scans would be elsewhere now. What a file itself says of its patient has not changed."""
    if source.split is not None and split != source.split:
        return True
    if group is None or source.group is None or group.by in IN_FILE:
        return False
    return group.key != source.group.key


def _packed_as(
    wanted: Collection[str], store: ObjectStore, records: Sequence[PackRecord]
) -> Iterator[tuple[str, str, Group | None]]:
    """(source, split, group) of the packed scans of these sources, from the indexes; group: None in one without any."""
    for record in records:
        if wanted and not set(record.sources).isdisjoint(wanted):
            for split, shard in ((split, shard) for split, shards in record.splits.items() for shard in shards):
                for row in read_index(store, shard).to_pylist():
                    if row["source"] in wanted:
                        yield row["source"], split, Group(row["group"], row["group_by"]) if "group" in row else None


def under_packed_names(sources: Sequence[PackSource], folder: Path, keys: KeyMaker, data: Data) -> list[PackSource]:
    """The sources under the keys that they were packed with, in that order: renamed files keep theirs, and files of a
    DICOM series are one source."""
    left, series = {source.relative: source for source in sources}, SeriesSources(data, keys)
    found = []
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), sorted({*STATE_COLUMNS, *COLUMNS})):
        source = left.get(row["relative"])
        if source is None or series.take(source, row, _state(row, keys)):
            left.pop(row["relative"], None)
        elif row["identity"] != row["relative"]:
            found.append(replace(source, key=keys.source_key(row["identity"]), relative=row["identity"]))
            del left[row["relative"]]
    return sorted([*left.values(), *found, *series.sources()], key=lambda source: source.relative)


def _listed(source: PackSource, data: Data) -> Listed:
    reader = "" if source.refused else reader_for(data.reader, source.uri).name
    return Listed(
        source.relative, source.uri, source.size, source.version, reader, place=source.place, refused=source.refused
    )


def _distinct(names: Mapping[str, str], states: Mapping[str, SourceState]) -> dict[str, str]:
    """Identities by relative path, where they are others: a new file at the path that a renamed one had needs one of
    its own."""
    taken = set(names.values())
    mended = {r: f"{r}\0{states[r].content or states[r].version}" for r in taken if r in states and r not in names}
    return {**names, **mended}


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


def _packed(records: Iterable[PackRecord], folder: Path, keys: KeyMaker) -> dict[str, SourceState]:
    """What is known of the packed sources, from their records or, for those of earlier versions, from the inventory of
    the last pack."""
    states = {key: record.states.get(key) for record in records for key in record.sources}
    unknown = {key for key, state in states.items() if state is None}
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), STATE_COLUMNS) if unknown else ():
        if (key := keys.source_key(row["identity"])) in unknown:
            states[key] = _state(row, keys)
    return {key: state or SourceState() for key, state in states.items()}


def _identities(wanted: Collection[str], folder: Path, keys: KeyMaker) -> dict[str, str]:
    """The identities of packed sources (keys) that are in the inventory of the last pack."""
    rows = read_inventory(folder / INVENTORY, keys.fingerprint(), ["identity"]) if wanted else ()
    return {key: row["identity"] for row in rows if (key := keys.source_key(row["identity"])) in wanted}


def _resolved(
    source: PackSource,
    identities: Mapping[str, str],
    key_of: Mapping[str, str],
    present: Mapping[str, SourceState],
    changes: Changes,
    known_as: Mapping[str, str],
) -> PackSource:
    """The source under the key that its scans have, or will have."""
    key = key_of[source.relative]
    former = changes.renamed.get(key)
    if former is None:
        return replace(source, key=key, relative=identities.get(source.relative, source.relative), state=present[key])
    return replace(source, key=former, relative=known_as.get(former, source.relative), state=present[key])
