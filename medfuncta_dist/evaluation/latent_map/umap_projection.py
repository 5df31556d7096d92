"""UMAP (McInnes et al. 2018) of latents: the only import of umap-learn, which the extra ``map`` installs."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float

from medfuncta_dist.errors import RunFileError

NEIGHBOURS = 15
"""UMAP's default: fewer show more detail and less of the whole."""
SEED = 0


def require_umap() -> None:
    """RunFileError where UMAP is not installed: before anything is computed."""
    if find_spec("umap") is None:
        raise RunFileError(
            "evaluate.umap is true, but UMAP is not installed here",
            where="evaluate.umap",
            do="pip install 'medfuncta-dist[map]', or leave the key out: the map then shows PCA alone",
        )


def umap_plane(latents: Float[np.ndarray, "scan latent"]) -> Float[np.ndarray, "scan 2"]:
    """Places in the plane, with a fixed seed and one thread, on which it depends; at least three latents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, that few points have few neighbours
        from umap import UMAP

        neighbours = min(NEIGHBOURS, len(latents) - 1)
        few = len(latents) < 2 * NEIGHBOURS  # the spectral start wants more points than it seeks eigenvectors
        start = "random" if few else "spectral"
        mapped = UMAP(n_neighbors=neighbours, init=start, random_state=SEED, n_jobs=1).fit_transform(latents)
    return np.asarray(mapped, np.float64)
