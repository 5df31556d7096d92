"""Repairs what verify found damaged. Nothing that is whole is touched, and no last whole copy is deleted.

shards        packed again from the archive, under the same content address; never deleted
checkpoints   damaged ones removed, as long as a whole one is left to resume from
snapshots     written again from the pack records, or their commit records from them, to the bit
latents       damaged commit records and parts removed, and these ranges, and only them, fitted again; a damaged
              catalogue made again from the parts
neighbours    records of damaged indexes removed: `medfuncta-dist index` makes them again
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medfuncta_dist.config.kept_run_file import begun_with
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunHeldError
from medfuncta_dist.fitting.fit_driver import fit_again, locate_table
from medfuncta_dist.integrity.damaged_latents import find_damaged_records, range_of, remove_damaged_records
from medfuncta_dist.integrity.repair_checkpoints import remove_damaged_checkpoints
from medfuncta_dist.integrity.repair_shards import repair_shards
from medfuncta_dist.integrity.repair_snapshots import NOT_REBUILT, find_snapshot_faults, repair_snapshots
from medfuncta_dist.integrity.verify_catalogue import repair_catalogue
from medfuncta_dist.integrity.verify_shards import Fault
from medfuncta_dist.neighbours.index_check import check_indexes, remove_damaged
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import compute_fan_out, cpu_fan_out
from medfuncta_dist.run.settled_keys import as_begun
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.leases.lease import dataset_lease, run_lease
from medfuncta_dist.storage.object_store import ObjectStore

Reasons = dict[str, str]
"""Why a fault stays, by where it is."""
Repair = Callable[[RunFile, ObjectStore, Sequence[Fault]], tuple[list[str], Reasons]]


def run_repair(repair: Repair, run: RunFile, store: ObjectStore, faults: Sequence[Fault]) -> tuple[list[str], Reasons]:
    """Run a repair: lines on what was done, and why faults stay. RunHeldError while a driver holds the run."""
    try:
        return repair(run, store, faults)
    except RunHeldError:
        raise
    except MedfunctaError as error:
        return [f"not repaired: {error.what}"], {
            fault.where: f"{fault.what}; not repaired: {error.what}" for fault in faults
        }


def _snapshots(run: RunFile, store: ObjectStore, faults: Sequence[Fault]) -> tuple[list[str], Reasons]:
    with hold_lease(store, dataset_lease(run.dataset), run.cluster.lease_seconds, f"data set {run.dataset}") as fence:
        said = repair_snapshots(run, store, fence)
    return said, {fault.where: f"{fault.what}; {NOT_REBUILT}" for fault in find_snapshot_faults(run, store)}


def _shards(run: RunFile, store: ObjectStore, faults: Sequence[Fault]) -> tuple[list[str], Reasons]:
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    with hold_lease(store, dataset_lease(run.dataset), run.cluster.lease_seconds, f"data set {run.dataset}") as fence:
        damaged = {shard.uri for split in snapshot.splits.values() for shard in split} & {f.where for f in faults}
        left = repair_shards(run, snapshot, damaged, cpu_fan_out(run), fence)
    return [f"{len(damaged) - len(left)} of {len(damaged)} damaged shards packed again"], {
        f.where: f.what for f in left
    }


def _checkpoints(run: RunFile, store: ObjectStore, faults: Sequence[Fault]) -> tuple[list[str], Reasons]:
    with hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence:
        removed = remove_damaged_checkpoints(store, run.name, fence)
    return [f"{len(removed)} of {len(faults)} damaged checkpoints removed"], {}


def _latents(run: RunFile, store: ObjectStore, faults: Sequence[Fault]) -> tuple[list[str], Reasons]:
    target = locate_table(run, store)
    begun = begun_with(run, store)
    with hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence:
        damaged = find_damaged_records(store, target.folder)
        left = remove_damaged_records(store, damaged, fence)
        gone = [range_of(damage.record) for damage in damaged if damage not in left]
        done = f"{len(gone)} of {len(damaged)} damaged commit records removed"
        if not target.has_scans:
            done += "; import-latents imports their latents again"
        elif begun is None:
            done += "; fit makes their latents again"
        else:
            done += f"; {fit_again(as_begun(run, begun), compute_fan_out(run), gone, fence=fence)} scans fitted again"
        if repair_catalogue(store, target.folder, target.shards, fence):
            done += "; the catalogue was damaged, and is written again"
    return [done], {
        store.uri(d.record): f"{d.what}; not removed: it is not a commit record of this version" for d in left
    }


def _neighbours(run: RunFile, store: ObjectStore, faults: Sequence[Fault]) -> tuple[list[str], Reasons]:
    with hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence:
        left = remove_damaged(store, check_indexes(run, store), fence)
    done = (
        f"{len(faults) - len(left)} of {len(faults)} damaged indexes removed; `medfuncta-dist index` makes them again"
    )
    return [done], {one.where: f"{one.what}; not removed: it is not an index of this version" for one in left}


REPAIRS: dict[str, Repair] = {
    "snapshots": _snapshots,
    "shards": _shards,
    "checkpoints": _checkpoints,
    "latents": _latents,
    "neighbours": _neighbours,
}
