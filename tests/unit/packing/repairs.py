"""Repairing a data set whose shards are all damaged."""

from __future__ import annotations

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.integrity.repair_shards import repair_shards
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.unit.shards.samples import objects


def require_same_after_repair(run: RunFile) -> None:
    """Damage every shard of the newest snapshot; repair must give every object its former bytes."""
    store = ObjectStore(run.storage)
    snapshot, before = load_snapshot(store, run.dataset, None), objects(store)
    shards = [shard.uri for listed in snapshot.splits.values() for shard in listed]
    for uri in shards:
        store.write(uri, b"damaged")
    assert objects(store) != before
    assert repair_shards(run, snapshot, shards, map_here, ALONE) == []
    assert objects(store) == before
