"""What a run file may leave open, and a run must settle once, for it decides the last bits: chunk sizes."""

from __future__ import annotations

import psutil

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.meta.chunks import ACTIVATION_BYTES, Chunks

GPU_ACTIVATION_BYTES = 2**26
"""Of one layer: a sweep of 15 layers then holds under 4 GB. Not measured: no GPU has run this yet."""
SHARE_OF_FREE_MEMORY = 0.25
"""Of what is free, for the sweeps of all workers: data, parameters and Ray need the rest."""


def resolved(run: RunFile, frozen: RunFile | None) -> RunFile:
    """The run file with chunk sizes: its own, else those that this run began with, else chosen now."""
    given = {"chunk_points": run.meta.chunk_points, "chunk_scans": run.meta.chunk_scans}
    if None not in given.values():
        return run
    if frozen is not None:
        settled = {name: getattr(frozen.meta, name) for name in given}
    else:
        chunks = Chunks.sized(run.field.hidden, activation_bytes(run, psutil.virtual_memory().available))
        settled = {"chunk_points": chunks.points, "chunk_scans": chunks.scans}
    chosen = {name: settled[name] if value is None else value for name, value in given.items()}
    return run.model_copy(update={"meta": run.meta.model_copy(update=chosen)})


def activation_bytes(run: RunFile, free: int) -> int:
    """Bytes of one layer's activations in a chunk; a sweep holds four of these a layer (docs/method.md, 4)."""
    if run.cluster.gpus_per_worker:
        return GPU_ACTIVATION_BYTES
    held = 4 * run.field.layers * run.cluster.most_workers
    return max(4 * run.field.hidden, min(ACTIVATION_BYTES, int(SHARE_OF_FREE_MEMORY * free / held)))
