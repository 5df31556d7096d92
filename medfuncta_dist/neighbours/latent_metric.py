"""What it means that two latents are near: a linear map, after which the distance is the Euclidean one. Pure NumPy.

plain      the numbers as they are
whitened   every direction in units of its standard deviation over the fitted scans
image      the images: the root mean squared difference of what two latents decode to (``image_curvature.py``)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

MetricName = Literal["plain", "whitened", "image"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
DEFAULT_METRIC: MetricName = "image"
WHITENING_FLOOR = 1.0
"""Added to each direction's variance, as a share of the mean variance: without it, directions in which scans hardly
differ, mostly noise of the fit, count as much as all others. The best of six by validation scans, for both kinds of
field (benchmarks/results/neighbour_metrics-*)."""
NEGLIGIBLE = 1e-6
"""Of the sum of a metric's eigenvalues: directions that together have less are left out."""
SAME = 1e-3
"""A metric whose matrix differs from the identity by less is the plain one: no product is needed then."""
BLOCK_NUMBERS = 2**24
"""Of a table of distances that are in memory at once: 64 MB."""
CANDIDATES = 4
"""References that are compared exactly, of each latent: the first search rounds."""


@dataclass(frozen=True, eq=False)
class LatentMetric:
    """``map`` None: the latents themselves are the coordinates in which the distance is Euclidean."""

    name: MetricName
    map: Float[np.ndarray, "latent coordinate"] | None = None

    def coordinates(self, latents: Float[np.ndarray, "scan latent"]) -> Float[np.ndarray, "scan coordinate"]:
        """Latents as float32 vectors; the distance of two scans is the length of their difference."""
        latents = np.ascontiguousarray(latents, np.float32)
        return latents if self.map is None else latents @ self.map


PLAIN = LatentMetric("plain")


def whitened_metric(latents: Float[np.ndarray, "scan latent"], floor: float = WHITENING_FLOOR) -> LatentMetric:
    """From latents of many scans: their covariance, with ``floor`` times the mean variance added to each direction."""
    centred = latents.astype(np.float64) - latents.mean(0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred / max(len(latents), 1))
    variances = variances.clip(min=0)
    scale = 1 / np.sqrt(variances + max(floor * variances.mean(), np.finfo(np.float32).tiny))
    return LatentMetric("whitened", (directions * scale).astype(np.float32))


def image_metric(curvature: Float[np.ndarray, "latent latent"]) -> LatentMetric:
    """From G, the mean of JᵀJ over values and scans: (φ − φ')ᵀ G (φ − φ') is the mean squared difference of images."""
    if np.abs(curvature - np.eye(len(curvature))).max() < SAME:
        return LatentMetric("image")
    values, directions = np.linalg.eigh(curvature)
    values, directions = values[::-1].clip(min=0), directions[:, ::-1]
    left_out = np.cumsum(values[::-1])[::-1]
    kept = max(1, int((left_out > NEGLIGIBLE * values.sum()).sum()))
    return LatentMetric("image", np.ascontiguousarray(directions[:, :kept] * np.sqrt(values[:kept]), np.float32))


def nearest_distances(
    latents: Float[np.ndarray, "scan latent"],
    references: Float[np.ndarray, "reference latent"],
    metric: LatentMetric = PLAIN,
) -> Float[np.ndarray, " scan"]:
    """The distance of each latent to the nearest of the references, float64; ValueError where there are none.

    In memory at once: both sets as coordinates, and a block of the table of distances.
    """
    if not len(references):
        raise ValueError("there is no reference to measure a distance to")
    there = metric.coordinates(references)
    centre = there.mean(0)  # squares of small numbers lose less when they are subtracted
    there, here = there - centre, metric.coordinates(latents) - centre
    squares, rows = np.square(there).sum(1), max(1, BLOCK_NUMBERS // len(there))
    parts = [_nearest(here[start : start + rows], there, squares) for start in range(0, len(here), rows)]
    return np.concatenate(parts) if parts else np.empty(0)


def _nearest(here: np.ndarray, there: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Of a block: a few candidates by |b|² − 2ab, and their distances exactly."""
    ranks = squares - 2 * (here @ there.T)
    few = min(CANDIDATES, len(there))
    chosen = np.argpartition(ranks, few - 1, axis=1)[:, :few]
    differences = there[chosen].astype(np.float64) - here[:, None]
    nearest: np.ndarray = np.sqrt(np.square(differences).sum(2).min(1))
    return nearest
