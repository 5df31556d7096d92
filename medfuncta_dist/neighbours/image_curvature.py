"""The metric of images: G = mean of JᵀJ over values and scans, where J is how a field's values move with its latent.

(φ − φ')ᵀ G (φ − φ') is the mean squared difference of the two images: exactly for a basis field, whose J is the same
everywhere, and to first order for a SIREN, with J averaged over scans.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec, mean_and_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latents.curvature import jacobian_sweep, rows, spread_points
from medfuncta_dist.meta.sweeps.folded import Folded, fold

SCANS = 32
"""Whose Jacobians are averaged."""
POINTS = 4096
"""Of each scan, evenly spaced: more change G less than other scans do."""
POINTS_AT_ONCE = 512
"""A SIREN's Jacobian by its shifts is in memory for so many: 8 MB at 15 layers of 256."""


@torch.no_grad()
def image_curvature(
    network: SharedNetwork, latents: Float[np.ndarray, "scan latent"], shape: Sequence[int]
) -> Float[np.ndarray, "latent latent"]:
    """G at these latents (at most ``SCANS`` of them, evenly chosen) on a grid of ``shape``, float64.

    Latents may be shorter than P (``fit.keep``): the numbers that they lack are zeros.
    """
    coordinates = _sampled(grid(shape))
    numbers = latents.shape[1]
    if isinstance(network.spec, BasisSpec):
        return _of_basis(network, coordinates)[:numbers, :numbers]
    chosen = latents[np.linspace(0, len(latents) - 1, min(SCANS, len(latents))).astype(int)]
    folded = fold(network.spec, network.params)
    return _of_siren(folded, coordinates, torch.from_numpy(np.ascontiguousarray(chosen, np.float32)))


def _sampled(coordinates: Tensor) -> Tensor:
    count = len(coordinates)
    return coordinates if count <= POINTS else coordinates[spread_points(count, POINTS / count, 0)]


def _of_basis(network: SharedNetwork, coordinates: Tensor) -> np.ndarray:
    total, values = np.zeros((network.spec.latent,) * 2), 0
    for part in torch.split(coordinates, POINTS_AT_ONCE):
        basis = mean_and_basis(network.spec, network.params, part)[1].flatten(0, 1).double()  # type: ignore[arg-type]
        total += (basis.T @ basis).numpy()
        values += len(basis)
    return total / values


def _of_siren(folded: Folded, coordinates: Tensor, latents: Tensor) -> np.ndarray:
    """Summed by shifts, of which the latent is mapped once at the end."""
    shifts, size = folded.shifts(latents), len(folded.maps)
    total, values = torch.zeros(size, size, dtype=torch.float64), 0
    for shift in shifts.split(1):
        for part in torch.split(coordinates, POINTS_AT_ONCE):
            jacobian = rows(jacobian_sweep(folded, part, shift)[0])[0]
            total += jacobian.T @ jacobian
            values += len(jacobian)
    maps = folded.maps.double()
    return (maps.T @ total @ maps / values).numpy()
