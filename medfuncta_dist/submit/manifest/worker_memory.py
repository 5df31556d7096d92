"""The memory that one worker of a stage needs at least, from the run file. Pure.

A lower bound, with which only what cannot run is refused: what a worker really takes depends on the files, on Ray, and
on the chunks that the run chooses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medfuncta_dist.config.run_file import MATRICES, RunFile

FLOAT = 4
"""Bytes of a float32."""
PROCESS_BYTES = {"pack": 140 * 2**20, "train": 360 * 2**20, "fit": 290 * 2**20, "evaluate": 290 * 2**20}
"""Of a process that has imported what its stage needs and holds no scan: its own pages, measured on CPUs."""


def worker_bytes(run: RunFile, stage: str) -> int:
    """Bytes of main memory that a worker of this stage needs at least, shared memory not included."""
    needs = {"pack": _one_scan, "train": _training, "fit": _fitting, "evaluate": _one_scan}
    return PROCESS_BYTES[stage] + needs[stage](run)


def most_demanding(run: RunFile, stages: Sequence[str]) -> tuple[str, int]:
    """The stage whose workers need most, and how many bytes that is."""
    found = {stage: worker_bytes(run, stage) for stage in stages}
    stage = max(found, key=lambda name: found[name])
    return stage, found[stage]


def _scans(run: RunFile, number: int) -> int:
    return FLOAT * number * run.data.points * run.data.channels


def _one_scan(run: RunFile) -> int:
    return _scans(run, 1)


def _training(run: RunFile) -> int:
    """A rank's share of a batch; and on a CPU what else is on the device: the network, or all pairs of features."""
    if run.field.kind == "basis" and not run.cluster.gpus_per_worker:  # whose workers hold the whole batch
        return _scans(run, run.train.batch) + MATRICES * 8 * run.field.feature_count**2
    share = math.ceil(run.train.batch / run.cluster.most_workers)
    return _scans(run, share) + (0 if run.cluster.gpus_per_worker else _network(run))


def _fitting(run: RunFile) -> int:
    """A batch, no larger than a shard; and on a CPU the largest matrix of one scan. Of patches, a shard may have any
    number, whatever its scans."""
    most = run.fit.batch if run.data.patches is not None else min(run.fit.batch, run.data.shard_scans)
    batch = _scans(run, most)
    return batch + (0 if run.gpus_per_task else _network(run) + _largest_matrix(run))


def _network(run: RunFile) -> int:
    """The weights alone, without moments and gradients: those may be divided over ranks."""
    field, inner = run.field, run.field.layers - 2
    heads = field.feature_count if field.kind == "basis" else (run.field.layers - 1) * field.latent
    return FLOAT * field.hidden * (inner * field.hidden + heads)


def _largest_matrix(run: RunFile) -> int:
    values, latent = run.data.points * run.data.channels, run.field.latent
    if run.field.kind == "basis":  # the functions at all points, and the matrix that solves for their weights
        return 2 * FLOAT * values * (run.fit.keep or latent)
    if run.fit.closed_form:  # the Jacobian of one scan
        return FLOAT * values * (run.field.layers - 1) * run.field.hidden
    return FLOAT * latent**2 if run.fit.method == "gauss-newton" else 0
