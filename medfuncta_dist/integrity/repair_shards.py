"""Packs damaged shards again from the archive: packing is deterministic, so the same bytes come out, or none.

The sources of each damaged shard are packed into a scratch folder by the same task as the first time. Files that come
out under the names of damaged objects replace them; nothing else is written, and nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfuncta_dist.archive.inventory import INVENTORY
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.integrity.packed_groups import UNREADABLE, Possible, as_packed, possible_groups
from medfuncta_dist.integrity.verify_shards import Fault, ShardCheck, check_shard
from medfuncta_dist.packing.archive_state import under_packed_names, without_forgotten
from medfuncta_dist.packing.pack_record import PackRecord, read_packs
from medfuncta_dist.packing.pack_task import PackTask, pack_task
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.source_list import list_sources
from medfuncta_dist.packing.sources.source_table import load_table
from medfuncta_dist.packing.sources.table_join import join_keys, join_table
from medfuncta_dist.scans.private.forgotten_list import Forgotten, read_list
from medfuncta_dist.scans.private.private_folder import load_salt, private_folder
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.data_contract import open_dataset
from medfuncta_dist.shards.snapshot import Shard, Snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, Unfenced
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.task_map import Failed, FanOut

CHANGED = (
    "its sources now give a different shard: since they were packed, they, data.shard_scans, data.shard_megabytes or "
    "the reader's version have changed"
)
UNTOLD = (
    f"{CHANGED}; or, since its index is damaged too, nothing tells any more which patient they were packed as: restore "
    "the index from a backup, and repair again"
)

SCRATCH = Unfenced("it is packed into a scratch folder, which only this task knows")


@dataclass(frozen=True)
class RepairTask:
    """Sources to pack again, and the shards that must come out. ``shards``: all of their record. ``possible``: as in
    ``as_packed``."""

    pack: PackTask
    wanted: tuple[Shard, ...]
    shards: tuple[Shard, ...]
    possible: Possible = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The pack's name."""
        return self.pack.name


def repair_shards(
    run: RunFile, snapshot: Snapshot, damaged: Collection[str], fan_out: FanOut, fence: Guard
) -> list[Fault]:
    """Pack the shards with these URIs, and their indexes, again; the faults that stay.

    Raises ``RunFileError`` where archive or salt are missing, ``RunChangedError`` where they are those of another data
    set, ``LeaseLostError`` where another driver has taken the data set over.
    """
    store = ObjectStore(run.storage)
    folder = private_folder(run.data.private, run.dataset, run.storage)
    keys = KeyMaker(load_salt(folder))
    data = open_dataset(store, run.dataset, run.data, keys.fingerprint(), fence)
    run = run.model_copy(update={"data": data})
    shards = [shard for split in snapshot.splits.values() for shard in split if shard.uri in damaged]
    forgotten = replace(read_list(folder).forgotten(), trusted=True)  # it is in no shard, and must not come back
    # Only those that the snapshot names: a superseded record can name the same shard, and sources that are gone.
    records = [record for record in read_packs(store, run.dataset) if record.name in set(snapshot.packs)]
    sources, possible = _told_sources(run, folder, keys, forgotten, records)
    task = PackTask(run.storage, run.dataset, run.data, (), keys, SCRATCH, forgotten=forgotten)
    tasks, faults = _planned(task, sources, records, shards, possible)
    for outcome in fan_out(repair_task, tasks):
        if isinstance(outcome, Failed):
            faults += [Fault(shard.uri, f"not repaired: {_error_text(outcome.error)}") for shard in outcome.item.wanted]
        else:
            faults += outcome.result
    return faults


def _told_sources(
    run: RunFile, folder: Path, keys: KeyMaker, forgotten: Forgotten, records: Sequence[PackRecord]
) -> tuple[list[PackSource], Possible]:
    """The sources of the archive under the keys that they were packed with, and what the run file's table says; and
    whose those may have been of which nothing tells it."""
    listed = list_sources(run.data, keys, records, folder=folder).sources
    sources = [source for source in listed if source.key not in forgotten.sources]
    sources = without_forgotten(sources, folder / INVENTORY, run.data, keys, forgotten)
    table = load_table(run.data)
    joined = join_table(sources, table, folder / INVENTORY, keys)
    named = under_packed_names(joined.sources, folder, keys, run.data)
    told = join_keys(replace(joined, sources=named), table, folder, keys, {}).sources
    return told, possible_groups(joined.sources, told, run.data, keys)


def _error_text(error: Exception) -> str:
    """Of a foreign error only the class: its text may name a source."""
    return error.what if isinstance(error, MedfunctaError) else type(error).__name__


def _planned(
    task: PackTask,
    sources: Sequence[PackSource],
    records: Iterable[PackRecord],
    shards: Sequence[Shard],
    possible: Possible,
) -> tuple[list[RepairTask], list[Fault]]:
    """One task per pack record that damaged shards come from, and the shards that cannot be repaired."""
    left, tasks, faults = {shard.uri: shard for shard in shards}, [], []
    for record in records:
        wanted = tuple(left.pop(shard.uri) for shard in record.shards if shard.uri in left)
        # In the archive's order: as they were packed.
        group = tuple(source for source in sources if source.key in set(record.sources)) if wanted else ()
        if len(group) < len(record.sources):
            missing = (
                f"{len(record.sources) - len(group)} of its {len(record.sources)} sources are no longer in the archive"
            )
            faults += [Fault(shard.uri, missing) for shard in wanted]
        elif wanted:
            of_group = {source.key: possible[source.key] for source in group if source.key in possible}
            tasks.append(RepairTask(replace(task, sources=group), wanted, tuple(record.shards), of_group))
    return tasks, faults + [Fault(uri, "no pack record names it") for uri in left]


def repair_task(task: RepairTask) -> list[Fault]:
    """Pack the sources into a scratch folder, and upload the files with a wanted name; the faults that stay."""
    store = ObjectStore(task.pack.root)
    left = task.wanted
    for sources in as_packed(store, task.pack.sources, task.shards, task.possible):
        _pack_again(store, replace(task.pack, sources=sources), left)
        left = tuple(shard for shard in left if not _is_whole(store, shard))
        if not left:
            break
    return [Fault(shard.uri, CHANGED if _has_index(store, shard) else UNTOLD) for shard in left]


def _pack_again(store: ObjectStore, task: PackTask, wanted: Sequence[Shard]) -> None:
    with scratch_folder("repair") as folder:
        pack_task(replace(task, root=str(folder)))
        for path in (path for shard in wanted for path in (shard.uri, shard.index_uri)):
            if (folder / path).exists():
                store.upload(folder / path, path)


def _has_index(store: ObjectStore, shard: Shard) -> bool:
    try:
        read_index(store, shard)
    except UNREADABLE:
        return False
    return True


def _is_whole(store: ObjectStore, shard: Shard) -> bool:
    try:
        check_shard(ShardCheck(store.root, shard))
    except UNREADABLE:
        return False
    return True
