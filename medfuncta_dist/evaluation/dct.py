"""A linear answer that learns almost nothing: as many coefficients of a cosine transform as a latent has numbers.

Which ones is the same for all scans: those that vary most over the training scans that PCA is fitted on. The basis is
fixed, so few training scans are no limit, and one task adds them up one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medfuncta_dist.evaluation.baselines import CHUNK_BYTES, Flat, flat_picks
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.evaluation.original_scans import Pick
from medfuncta_dist.evaluation.pca import Chosen, chosen_values
from medfuncta_dist.streaming.worker_settings import WorkerSettings

LEAST_SCANS = 2
"""One scan has no variance to choose by."""


@dataclass(frozen=True)
class DctTask:
    """Choose on the chosen training scans, score the picks. ``coefficients`` is how many are asked for."""

    worker: WorkerSettings
    chosen: tuple[Chosen, ...]
    picks: tuple[Pick, ...]
    coefficients: int
    shape: tuple[int, ...]
    """Points along each axis of a scan."""


@dataclass(frozen=True, eq=False)
class DctScores:
    """PSNR in dB of each pick; the coefficients there are, and the training scans that they were chosen on."""

    psnr: Float[np.ndarray, " scan"]
    coefficients: int
    training_scans: int


@dataclass(frozen=True, eq=False)
class Moments:
    """Of flat arrays: how many, their mean and their variance, value by value."""

    count: int
    mean: Float[np.ndarray, " value"]
    variance: Float[np.ndarray, " value"]


def dct_task(task: DctTask) -> DctScores | None:
    """None where fewer than two training scans can be read."""
    scans = chosen_values(task.worker, task.chosen)
    found = moments(transformed(values.ravel()[None], task.shape)[0] for values in scans)
    if found.count < LEAST_SCANS:
        return None
    picks = flat_picks(task.worker, task.picks)
    kept = largest(found.variance, task.coefficients)
    return DctScores(psnr(dct_mse(found.mean, kept, picks, task.shape)), len(kept), found.count)


def moments(arrays: Iterable[np.ndarray]) -> Moments:
    """Mean and variance of flat arrays, none of which is kept (Welford's sums, float64)."""
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for array in arrays:
        count += 1
        before = array - mean
        mean = mean + before / count
        squares = squares + before * (array - mean)
    return Moments(count, mean, squares / max(1, count))


def largest(variance: Float[np.ndarray, " value"], count: int) -> np.ndarray:
    """Places of the ``count`` largest variances, the largest first; of equal ones, those of the lower place."""
    return np.argsort(-variance, kind="stable")[:count]


def dct_mse(
    mean: Float[np.ndarray, " value"], kept: np.ndarray, scans: Flat, shape: Sequence[int]
) -> Float[np.ndarray, " scan"]:
    """MSE of each scan against what is left of it with the ``kept`` coefficients alone, clamped as decoded values are.

    ``mean``: of the training scans' coefficients; it takes the place of those that are not kept.
    """
    few = max(1, CHUNK_BYTES // (8 * scans.shape[1]))  # at once
    parts = (scans[start : start + few] for start in range(0, len(scans), few))
    return np.concatenate([_part_mse(mean, kept, part, shape) for part in parts])


def _part_mse(mean: np.ndarray, kept: np.ndarray, scans: Flat, shape: Sequence[int]) -> np.ndarray:
    coefficients = np.tile(mean, (len(scans), 1))
    coefficients[:, kept] = transformed(scans, shape)[:, kept]
    again = np.clip(transformed(coefficients, shape, inverse=True), 0, 1)
    return np.asarray(np.square(scans - again).mean(axis=1))


def transformed(flat: Flat, shape: Sequence[int], inverse: bool = False) -> Float[np.ndarray, "scan value"]:
    """Orthonormal DCT-II of each scan, channel by channel, or its inverse. Float64."""
    import scipy.fft  # every task of the stage imports this module

    channels = flat.shape[1] // math.prod(shape)
    array = flat.reshape(len(flat), channels, *shape).astype(np.float64)
    transform = scipy.fft.idctn if inverse else scipy.fft.dctn
    return np.asarray(transform(array, axes=range(2, array.ndim), norm="ortho")).reshape(flat.shape)
