"""The settings of machine and storage that a worker needs to read shards: part of every fit and score task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.shard_cache import ShardCache, cache_folder


@dataclass(frozen=True)
class WorkerSettings:
    """Storage root, the folder and size of the machine's shard cache, and compute threads."""

    root: str
    cache_folder: str
    cache_bytes: int
    threads: int

    @classmethod
    def of(cls, run: RunFile) -> WorkerSettings:
        """From the run file."""
        folder = str(cache_folder(run.cluster.cache))
        return cls(run.storage, folder, int(run.cluster.cache_gigabytes * 2**30), run.cluster.threads)

    def open(self) -> tuple[ObjectStore, ShardCache]:
        """Open storage and cache in this process, and hold torch to its threads."""
        torch.set_num_threads(self.threads)
        store = ObjectStore(self.root)
        return store, ShardCache(store, Path(self.cache_folder), self.cache_bytes)
