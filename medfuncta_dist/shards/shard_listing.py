"""Whether the shards and indexes of a snapshot are all in storage: two listings, which read none of them."""

from __future__ import annotations

from medfuncta_dist.errors import DamagedShardError
from medfuncta_dist.shards.snapshot import SHARD_AGAIN, Shard, Snapshot, dataset_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import missing_below


def missing_objects(store: ObjectStore, snapshot: Snapshot) -> list[str]:
    """Paths of the shards, then of the indexes, that are not in storage in their size.

    A listing is a request per 1000 objects; a data set of a million scans has some thousand shards.
    """
    shards = _shards(snapshot)
    tars, indexes = {s.uri: s.size for s in shards}, {s.index_uri: s.index_size for s in shards}
    return [
        *missing_below(store, dataset_path(snapshot.name, "shards"), tars),
        *missing_below(store, dataset_path(snapshot.name, "indexes"), indexes),
    ]


def _shards(snapshot: Snapshot) -> list[Shard]:
    return [shard for split in sorted(snapshot.splits) for shard in snapshot.splits[split]]


def require_shards(store: ObjectStore, snapshot: Snapshot) -> None:
    """DamagedShardError, with the way out, unless every shard of the snapshot and its index are in storage."""
    missing = missing_objects(store, snapshot)
    if missing:
        shards = _shards(snapshot)
        lost = [shard for shard in shards if not {shard.uri, shard.index_uri}.isdisjoint(missing)]
        scans = sum(shard.samples for shard in lost)
        raise DamagedShardError(
            f"{len(lost)} of {len(shards)} shards, with {scans} scans, or their indexes are missing or cut short",
            where=store.uri(missing[0]),
            do=f"{SHARD_AGAIN}, to the bit; then run the stage again",
        )
