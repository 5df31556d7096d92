"""Latents in the plane: PCA always, UMAP where it is asked for. The same latents always give the same plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MARGIN = 0.03
"""Of the plane's side, left free on each side."""

Plane = Float[np.ndarray, "scan 2"]


@dataclass(frozen=True, eq=False)
class ProjectionTask:
    """The latents of a map, at least two; with UMAP or without."""

    latents: Float[np.ndarray, "scan latent"]
    umap: bool


@dataclass(frozen=True, eq=False)
class Projections:
    """Places of the latents, each in [0, 1]; both axes of a plane have one scale."""

    pca: Plane
    explained: tuple[float, float]
    """Shares of the latents' variance along the two axes of PCA."""
    umap: Plane | None


def projection_task(task: ProjectionTask) -> Projections:
    """Both projections: a task, since UMAP takes its time."""
    plane, explained = principal_plane(task.latents)
    if not task.umap:
        return Projections(within_square(plane), explained, None)
    from medfuncta_dist.evaluation.latent_map.umap_projection import umap_plane

    return Projections(within_square(plane), explained, within_square(umap_plane(task.latents)))


def principal_plane(latents: Float[np.ndarray, "scan latent"]) -> tuple[Plane, tuple[float, float]]:
    """The first two principal components, and the share of the variance that each explains."""
    from sklearn.decomposition import PCA  # takes a second, and every task of the stage imports this module

    centred = latents.astype(np.float64) - latents.mean(axis=0, dtype=np.float64)
    variance = float(np.square(centred).sum())
    if variance == 0:
        return np.zeros((len(latents), 2)), (0.0, 0.0)
    places = PCA(min(2, *latents.shape), random_state=0).fit_transform(centred)
    plane = np.pad(places, [(0, 0), (0, 2 - places.shape[1])])
    first, second = np.square(plane).sum(axis=0) / variance
    return plane, (float(first), float(second))


def within_square(plane: Plane) -> Plane:
    """Moved and scaled, by one factor, into the unit square."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    extent = float((high - low).max()) or 1.0
    return np.asarray(0.5 + (plane - (low + high) / 2) / extent * (1 - 2 * MARGIN))
