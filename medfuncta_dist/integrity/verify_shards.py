"""Re-checks a data set: every byte of every shard and index, every sample's checksums, and both ledgers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, ScanError
from medfuncta_dist.packing.pack_ledger import require_balance
from medfuncta_dist.packing.pack_record import read_packs, record_path
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.shards.shard_index import brick_checksums
from medfuncta_dist.shards.snapshot import Shard, Snapshot, read_index, snapshot_path
from medfuncta_dist.shards.split_patients import PatientTally, ShardGroups, groups_in, require_apart
from medfuncta_dist.storage.digest import crc32c, sha256_file
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.task_map import Failed, FanOut
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport

MEMBERS = ("npy", "json")


@dataclass(frozen=True)
class ShardCheck:
    """One shard to check; travels to a worker."""

    root: str
    shard: Shard


@dataclass(frozen=True)
class Fault:
    """Something that is not what its record says."""

    where: str
    what: str


def verify_snapshot(store: ObjectStore, snapshot: Snapshot, fan_out: FanOut, on_progress: OnProgress) -> list[Fault]:
    """Check the counts of a snapshot and all its shards, and that no scan is there twice; the faults found."""
    faults = [*_counts(store, snapshot), *_packs(store, snapshot)]
    keys: list[np.ndarray] = []
    tally = PatientTally()
    splits = {shard.uri: split for split, shards in snapshot.splits.items() for shard in shards}
    checks = [ShardCheck(store.root, shard) for shards in snapshot.splits.values() for shard in shards]
    for done, outcome in enumerate(fan_out(check_shard, checks), 1):
        if isinstance(outcome, Failed):
            faults.append(_fault(outcome))
        else:
            keys.append(outcome.result.keys)
            if outcome.result.groups is not None:
                tally.add(splits[outcome.item.shard.uri], outcome.result.groups)
        on_progress(ProgressReport("verify", done, len(checks)))
    return faults + _repeated(keys, snapshot.name) + _parted(tally, snapshot)


def _parted(tally: PatientTally, snapshot: Snapshot) -> list[Fault]:
    """Patients in several splits, unless the splits were given: then pack reports them, and the owner decides."""
    try:
        require_apart(tally.result(), snapshot.contract, f"data set {snapshot.name}")
    except IntegrityError as error:
        return [Fault(error.where, error.what)]
    return []


def _repeated(keys: list[np.ndarray], dataset: str) -> list[Fault]:
    """Scans packed more than once, found by 64 bits of their keys: 8 bytes per scan, one false match in millions."""
    seen = np.concatenate(keys) if keys else np.empty(0, np.uint64)
    twice = len(seen) - len(np.unique(seen))
    return [Fault(f"data set {dataset}", f"{twice} scans are packed more than once")] if twice else []


def _fault(failure: Failed) -> Fault:
    # Storage that does not answer is no evidence about the bytes in it.
    if not isinstance(failure.error, IntegrityError | ObjectMissingError | ScanError):
        raise failure.error
    return Fault(failure.item.shard.uri, failure.error.what)


@dataclass(frozen=True)
class WholeShard:
    """What is compared between shards."""

    keys: np.ndarray
    """The first 64 bits of each sample's key."""
    groups: ShardGroups | None


def check_shard(check: ShardCheck) -> WholeShard:
    """Read one shard whole.

    IntegrityError, ObjectMissingError or ScanError when it is not whole.
    """
    store, shard = ObjectStore(check.root), check.shard
    index = read_index(store, shard)
    with scratch_folder("verify") as folder:
        path = folder / "shard.tar"
        if store.size(shard.uri) == shard.size:  # another object under this name may be larger than the disk
            store.download(shard.uri, path, size=shard.size)
        if not path.exists() or (path.stat().st_size, sha256_file(path)) != (shard.size, shard.sha256):
            raise IntegrityError("the shard does not match the snapshot", where=store.uri(shard.uri))
        with path.open("rb") as file:
            for row in index.to_pylist():
                _check_sample(file.read, file.seek, row)
    keys = np.array([int(key[:16], 16) for key in index["key"].to_pylist()], np.uint64)
    return WholeShard(keys, groups_in(index))


def _check_sample(read: Callable[[int], bytes], seek: Callable[[int], int], row: dict[str, Any]) -> None:
    members = []
    for member in MEMBERS:
        offset, length, crc = (row[f"{member}_{column}"] for column in ("offset", "length", "crc32c"))
        seek(offset)
        data = read(length)
        if crc32c(data) != crc:
            raise IntegrityError("a sample does not match the index", where=f"key {row['key']}")
        members.append(data)
    sample = decode(str(row["key"]), *members)
    if "shape" in row:
        found = list(sample.array.shape), brick_checksums(members[0], row["brick_bytes"])
        if found != (row["shape"], row["brick_crc32c"]):
            raise IntegrityError("a sample's shape or bricks do not match the index", where=f"key {row['key']}")


def _packs(store: ObjectStore, snapshot: Snapshot) -> list[Fault]:
    """Without its pack record, a source would be packed a second time."""
    try:
        missing = sorted(set(snapshot.packs) - {record.name for record in read_packs(store, snapshot.name)})
    except IntegrityError as error:
        return [Fault(error.where, error.what)]
    return [Fault(store.uri(record_path(snapshot.name, name)), "a pack record is missing") for name in missing]


def _counts(store: ObjectStore, snapshot: Snapshot) -> list[Fault]:
    where = store.uri(snapshot_path(snapshot.name, snapshot.digest))
    try:
        require_balance(snapshot.counts, where)
    except IntegrityError as error:
        return [Fault(where, error.what)]
    if snapshot.samples != snapshot.counts["packed"]:
        return [Fault(where, f"{snapshot.samples} samples in shards, but {snapshot.counts['packed']} scans packed")]
    return []
