"""What a reconstruction must beat: the training set's mean scan, and for each scan the nearest training scan.

Both are computed shard by shard: a task reads one training shard and compares it with the picked scans of the split
that is evaluated, so memory holds those picks and one chunk of training scans, however large the data set is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.evaluation.original_scans import Pick, read_picks, values_of_shard
from medfuncta_dist.fitting.worker_settings import WorkerSettings
from medfuncta_dist.shards.snapshot import Shard

CHUNK = 256  # training scans compared at once: large enough for a fast matrix product
CHUNK_BYTES = 2**27  # of them, as float32: volumes are compared a few at a time
MOST_PICKS = 2048  # scans: nearest neighbours cost picks x training scans
MOST_BYTES = 2**29  # of picks, as float32, in each worker

Flat = Float[np.ndarray, "scan value"]
T = TypeVar("T")


@dataclass(frozen=True)
class CompareTask:
    """One training shard, against the picks."""

    worker: WorkerSettings
    shard: Shard
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Comparison:
    """Of one training shard: the sum of its scans (float64), their number, and each pick's smallest MSE to one."""

    total: Float[np.ndarray, " value"]
    scans: int
    nearest: Float[np.ndarray, " scan"]


@dataclass(frozen=True)
class Baselines:
    """PSNR in dB of each pick, in the picks' order."""

    mean_scan: Float[np.ndarray, " scan"]
    nearest: Float[np.ndarray, " scan"]


def most_picks(values_per_scan: int) -> int:
    """How many scans of the evaluated split are compared with the training set."""
    return max(1, min(MOST_PICKS, MOST_BYTES // (4 * values_per_scan)))


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items, evenly spaced, first and last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def compare_task(task: CompareTask) -> Comparison:
    """Read a training shard once: add its scans up, and find the one nearest to each pick."""
    store, cache = task.worker.open()
    picks = flat_picks(task.worker, task.picks)
    total, scans = np.zeros(picks.shape[1]), 0
    nearest = np.full(len(picks), np.inf)
    for chunk in _chunks(values_of_shard(store, cache, task.shard)):
        total += chunk.sum(axis=0, dtype=np.float64)
        scans += len(chunk)
        nearest = np.minimum(nearest, nearest_mse(picks, chunk))
    return Comparison(total, scans, nearest)


@lru_cache(maxsize=1)  # they are spread over the evaluated split: read once per process, not once per training shard
def flat_picks(worker: WorkerSettings, picks: tuple[Pick, ...]) -> Flat:
    """Values of the picked scans, a row per scan."""
    store, cache = worker.open()
    flat = np.stack([values.ravel() for values in read_picks(store, cache, picks)])
    flat.flags.writeable = False
    return flat


def nearest_mse(picks: Flat, candidates: Flat) -> Float[np.ndarray, " scan"]:
    """MSE of each pick to the candidate nearest to it.

    The nearest is found by a matrix product (‖c‖² − 2⟨p, c⟩, float32), then its MSE is computed exactly: the product
    loses the small differences that a PSNR is made of.
    """
    squares = np.square(candidates).sum(axis=1)
    best = np.argmin(squares[None] - 2 * picks @ candidates.T, axis=1)
    # One by one: all picks at once, in float64, are several times the memory that they may take.
    pairs = zip(picks, best, strict=True)
    return np.array([np.square(pick.astype(np.float64) - candidates[i]).mean() for pick, i in pairs])


def combine(picks: Flat, comparisons: Sequence[Comparison]) -> Baselines:
    """PSNR of both baselines for each pick, from the comparisons with all training shards, in the snapshot's order."""
    mean_scan = np.sum([c.total for c in comparisons], axis=0) / sum(c.scans for c in comparisons)
    error = np.square(picks.astype(np.float64) - mean_scan).mean(axis=1)
    nearest = np.min([c.nearest for c in comparisons], axis=0)
    return Baselines(psnr(error), psnr(nearest))


def _chunks(values: Iterable[np.ndarray]) -> Iterable[Flat]:
    chunk: list[np.ndarray] = []
    for array in values:
        chunk.append(array.ravel())
        if len(chunk) >= min(CHUNK, CHUNK_BYTES // array.nbytes):
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)
