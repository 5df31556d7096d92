"""How many scans, or patches of them, a fit task gets, from the measured rate of a worker. Pure.

Ranges decide no latent (batches are fixed by position in the shard): a measured number may decide them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_SECONDS = 30.0
"""Of a task: what it costs beside fitting (its start, its shard's index, a part, a record: small objects) is then a few
percent. It is also what a worker that is preempted loses at most, beside a batch."""
TASKS_PER_WORKER = 4
"""At least, of the whole snapshot: with fewer, workers wait for the last task to end."""
PART_BYTES = 2**28
"""Most bytes of a part's latents: a task holds them, and their Parquet bytes, until it commits."""
PATCH_PART_BYTES = 2**24
"""The same of patches: whoever reads a few of them reads a footer, which grows with the part."""
RECORD_SCANS = 2**18
"""Most scans of a range: its commit record, at most 64 MiB, names every scan of a range that failed."""


@dataclass(frozen=True)
class Limits:
    """What bounds a task: the scans of a batch, of the largest shard and of all, the workers, and a latent's bytes."""

    batch: int
    largest_shard: int
    scans: int
    workers: int
    latent_bytes: int
    part_bytes: int = PART_BYTES

    @property
    def most_batches(self) -> int:
        """Of a task, whatever the rate; at least one."""
        in_shard = math.ceil(self.largest_shard / self.batch)
        in_part = min(self.part_bytes // self.latent_bytes, RECORD_SCANS) // self.batch
        per_worker = self.scans // (TASKS_PER_WORKER * self.workers * self.batch)
        return max(1, min(in_shard, in_part, per_worker))


def scans_per_task(rate: float, limits: Limits) -> int:
    """Whole batches that take ``LEAST_SECONDS`` or longer at ``rate`` (scans per second), within the limits."""
    wanted = math.ceil(LEAST_SECONDS * rate / limits.batch)
    return limits.batch * max(1, min(wanted, limits.most_batches))
