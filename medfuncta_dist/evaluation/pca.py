"""The best linear answer: PCA of as many components as a latent has numbers, fitted on training scans only.

A scan is then as many coefficients as its latent has numbers, and the basis takes the place of the shared network. One
task reads the training scans, fits and scores. It takes them evenly from the split, as many as its memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medfuncta_dist.evaluation.baselines import CHUNK_BYTES, Flat, evenly, flat_picks
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.evaluation.original_scans import Pick, values_of_shard
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.streaming.worker_settings import WorkerSettings

MOST_BYTES = 2**29  # of training scans, as float32; the decomposition needs about as much again, twice
MOST_SHARDS = 64  # training shards that one task reads: some 8 GB at the default size of a shard


@dataclass(frozen=True)
class Chosen:
    """The rows of one training shard that PCA is fitted on."""

    shard: Shard
    rows: tuple[int, ...]


@dataclass(frozen=True)
class PcaTask:
    """Fit on the chosen training scans, score the picks. ``components`` is how many are asked for."""

    worker: WorkerSettings
    chosen: tuple[Chosen, ...]
    picks: tuple[Pick, ...]
    components: int


@dataclass(frozen=True, eq=False)
class PcaScores:
    """PSNR in dB of each pick; the components there are, and the training scans that they were fitted on."""

    psnr: Float[np.ndarray, " scan"]
    components: int
    training_scans: int


def choose_scans(shards: Sequence[Shard], values_per_scan: int) -> tuple[Chosen, ...]:
    """Evenly spaced training scans, as many as fit into ``MOST_BYTES``, of at most ``MOST_SHARDS`` shards."""
    read = evenly(shards, MOST_SHARDS)
    places = [(i, row) for i, shard in enumerate(read) for row in range(shard.samples)]
    rows: dict[int, list[int]] = {}
    for i, row in evenly(places, max(2, MOST_BYTES // (4 * values_per_scan))):
        rows.setdefault(i, []).append(row)
    return tuple(Chosen(read[i], tuple(wanted)) for i, wanted in rows.items())


def components_of(asked: int, scans: int, values: int) -> int:
    """How many components so many centred scans have: one fewer than there are, and no more than values."""
    return max(0, min(asked, scans - 1, values))


def pca_task(task: PcaTask) -> PcaScores | None:
    """None where fewer than two training scans can be read."""
    train = _training_scans(task)
    picks = flat_picks(task.worker, task.picks)
    components = components_of(task.components, len(train), picks.shape[1])
    if components == 0:
        return None
    return PcaScores(psnr(pca_mse(train, picks, components)), components, len(train))


def _training_scans(task: PcaTask) -> Flat:
    # Into one array: a list of scans and their stack would take the memory twice.
    found = np.empty((sum(len(c.rows) for c in task.chosen), flat_picks(task.worker, task.picks).shape[1]), np.float32)
    scans = 0
    for values in chosen_values(task.worker, task.chosen):
        found[scans] = values.ravel()
        scans += 1
    return found[:scans]


def chosen_values(worker: WorkerSettings, chosen: Sequence[Chosen]) -> Iterator[np.ndarray]:
    """Values of the chosen training scans, one after the other."""
    store, cache = worker.open()
    for part in chosen:
        yield from values_of_shard(store, cache, part.shard, part.rows)


def pca_mse(train: Flat, scans: Flat, components: int) -> Float[np.ndarray, " scan"]:
    """MSE of each scan against its projection on the training scans' components, clamped as decoded values are.

    ``train`` is overwritten. Exact for small sets, randomised (Halko et al. 2011) where scikit-learn prefers it, with a
    fixed seed.
    """
    from sklearn.decomposition import PCA  # takes a second, and every task of the stage imports this module

    basis = PCA(components, copy=False, random_state=0).fit(train)
    few = max(1, CHUNK_BYTES // (4 * scans.shape[1]))  # at once
    parts = (scans[start : start + few] for start in range(0, len(scans), few))
    return np.concatenate([_projected_mse(basis.mean_, basis.components_, part) for part in parts])


def _projected_mse(mean: np.ndarray, components: np.ndarray, scans: Flat) -> Float[np.ndarray, " scan"]:
    again = np.clip(mean + (scans - mean) @ components.T @ components, 0, 1)
    return np.asarray(np.square(scans - again.astype(np.float64)).mean(axis=1))
