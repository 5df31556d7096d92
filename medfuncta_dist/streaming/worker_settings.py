"""The settings of machine and storage that a worker needs to read shards: part of every fit and score task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.meta.device import granted_device
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.compile_cache import use_compile_cache
from medfuncta_dist.streaming.shard_cache import ShardCache, cache_folder


@dataclass(frozen=True)
class WorkerSettings:
    """Storage root, the folder and size of the machine's shard cache, compute threads, and the GPUs of each task."""

    root: str
    cache_folder: str
    cache_bytes: int
    threads: int
    gpus: float

    @classmethod
    def of(cls, run: RunFile) -> WorkerSettings:
        """From the run file."""
        folder = str(cache_folder(run.cluster.cache))
        cluster = run.cluster
        cache_bytes = int(cluster.cache_gigabytes * 2**30)
        return cls(run.storage, folder, cache_bytes, cluster.threads, run.gpus_per_task)

    @property
    def device(self) -> torch.device:
        """Where a task computes."""
        return granted_device(self.gpus)

    def open(self) -> tuple[ObjectStore, ShardCache]:
        """Open storage and cache in this process, and hold torch to its threads and, on a GPU, to the node's folder of
        compiled code."""
        torch.set_num_threads(self.threads)
        if self.gpus > 0:
            use_compile_cache(Path(self.cache_folder))
        store = ObjectStore(self.root)
        return store, ShardCache(store, Path(self.cache_folder), self.cache_bytes)
