"""Packed sources whose scans would be elsewhere now, or be another source's: they are packed again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from medfuncta_dist.archive.changes import Changes
from medfuncta_dist.archive.inventory import INVENTORY, read_inventory
from medfuncta_dist.archive.series_sums import in_series
from medfuncta_dist.packing.archive_sources import ArchiveSources, Watched
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.recorded_sources import RecordedSources
from medfuncta_dist.packing.sources.pack_source import PackSource, told_key
from medfuncta_dist.packing.sources.series_sources import COLUMNS, placed_anew, series_identity
from medfuncta_dist.packing.sources.source_rows import SourceRows
from medfuncta_dist.packing.sources.source_table import SourceTable
from medfuncta_dist.scans.patient_group import IN_FILE, Group
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.object_store import ObjectStore


def reassigned(
    found: Changes,
    sources: ArchiveSources,
    table: SourceTable | None,
    store: ObjectStore,
    recorded: RecordedSources,
    keys: KeyMaker,
) -> frozenset[str]:
    """Packed sources that were moved to where the run file, its table or the path tells another split or patient, or of
    which the table does so where they are: they are packed again, or a patient's scans could be in two splits. The
    files of a series may have moved where it is the same; where they name no patient, their folder does. And those that
    have other labels in the table than they were packed with."""
    formers = set(found.renamed.values())
    anew = {former for key, former in found.renamed.items() if sources[key].members}
    for watched in sources.watched(recorded, table is not None, found.renamed):
        labelled = _labelled_otherwise(watched, table, keys)
        moved = {
            key: source
            for key, source in watched.sources.items()
            if (key in formers or table is not None or placed_anew(source))
            and (source.split is not None or source.group is not None)
        }
        placed = _packed_as(moved.keys() - labelled, store, watched.record)
        anew |= labelled | {key for key, split, group in placed if _is_other(moved[key], split, group)}
    return frozenset(anew)


def overwritten(removed: Collection[str], listed: SourceRows, folder: Path, keys: KeyMaker) -> frozenset[str]:
    """Of removed sources: series that are gone because their files, which are still there, now say another patient,
    study or series; and archive files that were quarantined whole, and can now be read."""
    if not removed:
        return frozenset()
    rows = read_inventory(folder / INVENTORY, keys.fingerprint(), COLUMNS)
    former = (row for row in rows if in_series(row) and keys.source_key(series_identity(row)) in removed)
    series = {keys.source_key(series_identity(row)) for row in former if listed.of_relative(row["relative"])}
    inside = ((source, source.place.archive) for source in listed.with_more() if source.place is not None)
    archives = {source.relative[: len(archive) - len(source.uri)] for source, archive in inside}
    return frozenset(series | {key for archive in archives if (key := keys.source_key(archive)) in removed})


def _labelled_otherwise(watched: Watched, table: SourceTable | None, keys: KeyMaker) -> frozenset[str]:
    """Packed sources whose labels in the table are others than those that they were packed with.

    Earlier versions did not keep these: the table of ``data.group``, which they had, cannot be added later, so that
    sources of which nothing is known count as the same.
    """
    before: Mapping[str, str] = watched.told
    if table is not None and table.where != "data.table":
        before = {key: said for key, said in before.items() if said}
    return frozenset(key for key, said in before.items() if said not in _as_before(watched.sources[key], keys))


def _as_before(source: PackSource, keys: KeyMaker) -> set[str]:
    """What was kept of a packed source of which the same is told. One that lies scattered only since then stays: the
    patient whose it was has not changed, until its bytes do."""
    return {told_key(source, keys), told_key(replace(source, scattered=False), keys)}


def _is_other(source: PackSource, split: str, group: Group | None) -> bool:
    """Whether the source's scans would be elsewhere now. What a file itself says of its patient has not changed."""
    if source.split is not None and split != source.split:
        return True
    if group is None or source.group is None or group.by in IN_FILE:
        return False
    return group.key != source.group.key


def _packed_as(
    wanted: Collection[str], store: ObjectStore, record: PackRecord
) -> Iterator[tuple[str, str, Group | None]]:
    """(source, split, group) of the packed scans of these sources, from the indexes; group: None in one without any."""
    for split, shard in ((split, shard) for split, shards in record.splits.items() for shard in shards):
        for row in read_index(store, shard).to_pylist() if wanted else ():
            if row["source"] in wanted:
                yield row["source"], split, Group(row["group"], row["group_by"]) if "group" in row else None
