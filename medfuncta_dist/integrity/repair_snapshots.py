"""Finds snapshots that lack their file or their commit record, and writes what is missing again, to the bit.

A file follows from the pack records: the parent's packs, then the new ones by name. The digest in the commit record
proves it. A commit record follows from the file, which proves itself; it is written again where it was there once: for
the snapshot that the run names, for those that others came before, and for their parents. No snapshot that was
forgotten comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from medfuncta_dist.config.kept_run_file import pinned_digest
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.integrity.verify_shards import Fault
from medfuncta_dist.packing.pack_driver import extended
from medfuncta_dist.packing.pack_ledger import total
from medfuncta_dist.packing.pack_record import PackRecord, StoredPack, each_pack, settle
from medfuncta_dist.shards.data_contract import recorded_contract
from medfuncta_dist.shards.forgotten_record import gone_snapshots
from medfuncta_dist.shards.snapshot import (
    CommittedSnapshot,
    Snapshot,
    commit_snapshot,
    is_proved,
    read_committed,
    read_unrecorded,
    snapshot_path,
    stored_snapshot,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import missing_below
from medfuncta_dist.storage.publish import Guard, publish_bytes

NOT_REBUILT = "not repaired: the pack records do not give it again"
MOST_TRIES = 256
"""Ways to read the records of a snapshot whose file is missing, each a digest over the whole snapshot."""


def find_snapshot_faults(run: RunFile, store: ObjectStore) -> list[Fault]:
    """Snapshots without their file, or without their commit record: two listings, and the files without a record."""
    recorded = read_committed(store, run.dataset)
    lost = [
        Fault(store.uri(snapshot_path(run.dataset, one.digest)), "the snapshot is missing: its commit record names it")
        for one in _without_file(store, run.dataset, recorded)
    ]
    alone = [
        Fault(store.uri(snapshot_path(run.dataset, one.digest)), "the snapshot's commit record is missing")
        for one in _without_record(run, store, recorded)
    ]
    return lost + alone + _unknown_pin(run, store, recorded, alone)


def repair_snapshots(run: RunFile, store: ObjectStore, fence: Guard) -> list[str]:
    """Write what is missing; a line on each kind. LeaseLostError where another driver has taken the data set over."""
    alone = _without_record(run, store, read_committed(store, run.dataset))
    for snapshot in alone:
        commit_snapshot(store, snapshot, fence)
    recorded = read_committed(store, run.dataset)
    lost = _without_file(store, run.dataset, recorded)
    rebuilt = _rebuild(store, run.dataset, recorded, lost)
    for snapshot in rebuilt:
        publish_bytes(store, fence, snapshot_path(run.dataset, snapshot.digest), snapshot.to_bytes())
    return [
        f"{len(rebuilt)} of {len(lost)} snapshots written again from the pack records, "
        f"{len(alone)} commit records written again"
    ]


def _without_file(store: ObjectStore, dataset: str, recorded: Iterable[CommittedSnapshot]) -> list[CommittedSnapshot]:
    paths = {snapshot_path(dataset, one.digest): one for one in recorded}
    missing = missing_below(store, snapshot_path(dataset, "").rpartition("/")[0], {p: paths[p].size for p in paths})
    gone = gone_snapshots(store, dataset) if missing else set()  # an act that was interrupted may have deleted it
    return [paths[path] for path in missing if paths[path].digest not in gone]


def _without_record(run: RunFile, store: ObjectStore, recorded: Sequence[CommittedSnapshot]) -> list[Snapshot]:
    """The snapshots that must have been committed: the one that the run names, those after lost ones, their parents."""
    files = {one.digest: one for one in read_unrecorded(store, run.dataset, recorded)}
    gone = gone_snapshots(store, run.dataset) if files else set()
    named = {run.data.snapshot, pinned_digest(run, store)}
    wanted = [one for one in files.values() if one.digest in named or is_proved(one, recorded)]
    for one in wanted:
        if one.parent in files and files[one.parent] not in wanted:
            wanted.append(files[one.parent])
    return sorted((one for one in wanted if one.digest not in gone), key=lambda one: one.generation)


def _unknown_pin(
    run: RunFile, store: ObjectStore, recorded: Iterable[CommittedSnapshot], alone: Sequence[Fault]
) -> list[Fault]:
    """A pin that names what is neither recorded nor stored."""
    pinned = pinned_digest(run, store)
    known = {one.digest for one in recorded}
    if pinned is None or pinned in known or any(f"/{pinned}." in fault.where for fault in alone):
        return []
    if pinned in gone_snapshots(store, run.dataset):
        return []  # the stage itself says so, and what to do
    where = store.uri(snapshot_path(run.dataset, pinned))
    return [Fault(where, "the snapshot that this run trains on is missing, and so is its commit record")]


@dataclass(frozen=True)
class _Archive:
    """What is known of a data set while its snapshots are rebuilt."""

    records: Mapping[str, PackRecord]
    written: Mapping[str, int]
    """The generation of each record: of two drivers' records, the later driver's has the higher one."""
    whole: dict[str, Snapshot]
    """Snapshots that are there, by digest; those that are rebuilt are added."""
    contract: Mapping[str, Any]


def _rebuild(
    store: ObjectStore, dataset: str, recorded: Sequence[CommittedSnapshot], lost: Sequence[CommittedSnapshot]
) -> list[Snapshot]:
    """Those of the lost ones that the records give, older ones first: each may be the next one's parent."""
    if not lost:
        return []
    stored = sorted(each_pack(store, dataset), key=StoredPack.age)
    records = {found.record.name: found.record for found in stored}
    written = {found.record.name: found.generation for found in stored}
    whole = {one.digest: found for one in recorded if (found := _stored(store, dataset, one)) is not None}
    archive = _Archive(records, written, whole, recorded_contract(store, dataset))
    rebuilt = []
    for one in sorted(lost, key=lambda one: one.generation):
        found = next((made for made in _candidates(dataset, archive, one) if made.digest == one.digest), None)
        if found is not None:
            archive.whole[found.digest] = found
            rebuilt.append(found)
    return rebuilt


def _stored(store: ObjectStore, dataset: str, one: CommittedSnapshot) -> Snapshot | None:
    try:
        return stored_snapshot(store, dataset, one.digest)
    except (IntegrityError, MedfunctaError):
        return None


def _candidates(dataset: str, archive: _Archive, one: CommittedSnapshot) -> Iterator[Snapshot]:
    """What the snapshot may have been, the likeliest first."""
    parents = [found for found in archive.whole.values() if found.generation == one.generation - 1]
    if one.generation == 1:
        contracts = [found.contract for found in archive.whole.values()] + [archive.contract]
        parents = [Snapshot(dataset, None, contract, {}, counts=total([])) for contract in contracts]
    for parent in parents:
        for new in _new_packs(archive, parent, one.generation):
            replaced = {name for record in new for name in record.replaces}
            yield extended(parent, [archive.records[name] for name in replaced if name in archive.records], new)


def _new_packs(archive: _Archive, parent: Snapshot, generation: int) -> Iterator[list[PackRecord]]:
    """The records that a snapshot may add to its parent: what a later one begins with, or all that there were then."""
    packed = set(parent.packs)
    later = [found for found in archive.whole.values() if found.generation > generation]
    for child in sorted(later, key=lambda found: found.generation):
        added = [name for name in child.packs if name not in packed]
        for cut in _cuts(added)[:MOST_TRIES]:
            if all(name in archive.records for name in added[:cut]):
                yield [archive.records[name] for name in added[:cut]]
    for moment in sorted(set(archive.written.values()), reverse=True)[:MOST_TRIES]:
        there = [record for record in archive.records.values() if archive.written[record.name] <= moment]
        settled = [record for record in settle(there, first=parent.packs) if record.name not in packed]
        revised = [record for record in there if record.revision and record.name not in packed]
        for new in (settled, [*settled, *revised]):
            yield sorted({record.name: record for record in new}.values(), key=lambda record: record.name)


def _cuts(added: Sequence[str]) -> list[int]:
    """Where the packs of a snapshot may end within those of its child: each adds its packs in the order of their names,
    so that a step down in the list is the likeliest place."""
    steps = [i for i, (left, right) in enumerate(pairwise(added), 1) if left > right]
    return steps + [i for i in range(1, len(added) + 1) if i not in set(steps)]
