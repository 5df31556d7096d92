"""Tables of curved latents, from made latents of unequal spread, without a network."""

from __future__ import annotations

import numpy as np

from medfuncta_dist.latents.curved.curved_tables import CurvedTables
from medfuncta_dist.latents.curved.table_design import Designed, design, judging

LATENT, SCANS = 10, 240
NOISE = 1e-4
"""Mean squared error of the made scans before anything is rounded: 40 dB."""


def made_latents(scans: int = SCANS, seed: int = 0) -> np.ndarray:
    """Correlated, with spreads that fall from 3 to 0.03."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(99).normal(size=(LATENT, LATENT)))[0]
    return ((rng.normal(size=(scans, LATENT)) * np.geomspace(3, 0.03, LATENT)) @ mixing + 0.5).astype(np.float32)


def curvature() -> np.ndarray:
    """Of images that change a hundred times as much along some directions as along others."""
    directions = np.linalg.qr(np.random.default_rng(7).normal(size=(LATENT, LATENT)))[0]
    return (directions * np.geomspace(1, 0.01, LATENT)) @ directions.T


def quality_of(latents: np.ndarray, metric: np.ndarray, others: np.ndarray) -> np.ndarray:
    """PSNR where images differ by the metric, beside the noise."""
    change = others.astype(np.float64) - latents
    return -10 * np.log10(NOISE + np.einsum("ij,jk,ik->i", change, metric, change))


def designed(bound: float = 0.2) -> Designed:
    """By the curvature's metric."""
    latents = made_latents()
    judged = latents[judging(len(latents))]
    return design(latents, curvature(), lambda others: quality_of(judged, curvature(), others), bound)


def tables() -> CurvedTables:
    """With a step that costs 0.2 dB."""
    return designed().tables
