"""The units of a data set's shards, from the shapes in their indexes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting.patched.shard_units import GridSettings, ShardUnits
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE

READERS = 16
KEPT = 2**12
"""Shards whose units a process keeps: a stage asks for them several times."""


def grid_settings(run: RunFile) -> GridSettings | None:
    """The grids that a run lays over its scans; None where each scan is one patch of the run's shape."""
    patches = run.data.patches
    return None if patches is None else GridSettings(tuple(patches.size), patches.overlaps)


def stored_units(store: ObjectStore, shards: Iterable[Shard], grids: GridSettings) -> dict[str, ShardUnits]:
    """By the shard's SHA-256. One small read per shard, of those that this process has not asked for before.

    IntegrityError for a shard whose index does not tell shapes of as many axes.
    """
    listed = {shard.sha256: shard for shard in shards}
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda shard: _units(store.root, shard, grids), listed.values())
        return dict(zip(listed, found, strict=True))


@lru_cache(KEPT)
def _units(root: str, shard: Shard, grids: GridSettings) -> ShardUnits:
    store = ObjectStore(root)
    index = read_index(store, shard)
    shapes = [shape[1:] for shape in index["shape"].to_pylist()] if "shape" in index.column_names else [()]
    if any(len(shape) != len(grids.size) for shape in shapes):
        what = f"the index of a shard does not tell shapes of {len(grids.size)} axes"
        raise IntegrityError(what, where=store.uri(shard.index_uri), do=RESTORE)
    return ShardUnits.of(shapes, grids)
