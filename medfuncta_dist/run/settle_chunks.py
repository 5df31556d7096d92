"""The sizes of chunks, which a run file may leave open but a run must fix once, because results depend on them: chosen
from free memory before the run first computes (``settle_arithmetic.py``)."""

from __future__ import annotations

import math
from typing import Any

import psutil

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.meta.machine.gpu_memory import granted_memory
from medfuncta_dist.meta.sweeps.chunks import ACTIVATION_BYTES
from medfuncta_dist.network.core_settings import sized_chunks, sized_chunks_on_gpu
from medfuncta_dist.task_map import Done, FanOut

GPU_SWEEP_BYTES = 3 * 2**29
"""Of a sweep on a GPU: 24 scans at 1024 points of the paper's network need 1.3 GB, so that each step of its inner loop
is one sweep, and a training step stays below 2 GB. On an H100 halving it costs 15 %, and doubling it gains 1 %."""
GPU_SHARE = 0.5
"""Of a GPU's free memory, for a sweep: parameters, their moments, scans and other tasks' contexts need the rest."""
SHARE_OF_FREE_MEMORY = 0.25
"""Of the host's free memory, for the sweeps of all workers: data, parameters and Ray need the rest."""


def free_on_worker(gpus: float, fan_out: FanOut) -> int:
    """Bytes that the GPU of a worker with this grant has free."""
    (outcome,) = fan_out(granted_memory, [gpus])
    if not isinstance(outcome, Done):
        raise outcome.error
    return int(outcome.result.free)


def computes_on_gpus_alone(run: RunFile) -> bool:
    """Whether every stage that computes is granted a GPU: chunks are the same for all, and a CPU's are small."""
    return min(run.cluster.gpus_per_worker, run.gpus_per_task) > 0


def chosen_on_cpu(run: RunFile) -> dict[str, Any]:
    """Chunk sizes for the memory that is free here."""
    chunks = sized_chunks(run, activation_bytes(run, psutil.virtual_memory().available))
    return {"chunk_points": chunks.points, "chunk_scans": chunks.scans}


def activation_bytes(run: RunFile, free: int) -> int:
    """Bytes of one layer's activations in a chunk; a sweep holds four of these per layer (docs/method.md, 4)."""
    held = 4 * run.field.layers * run.cluster.most_workers
    return max(4 * run.field.hidden, min(ACTIVATION_BYTES, int(SHARE_OF_FREE_MEMORY * free / held)))


def chosen_on_gpu(run: RunFile, free: int) -> dict[str, Any]:
    """Chunk sizes for a rank's share of a batch on a GPU that has so many bytes free."""
    scans = math.ceil(run.train.batch / run.cluster.fewest_workers)
    chunks = sized_chunks_on_gpu(run, min(GPU_SWEEP_BYTES, int(GPU_SHARE * free)), scans)
    return {"chunk_points": chunks.points, "chunk_scans": chunks.scans}
