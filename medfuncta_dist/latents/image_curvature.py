"""The metric of images: G = mean of JᵀJ over values and scans, where J is how a field's values move with its latent.

(φ − φ')ᵀ G (φ − φ') is the mean squared difference of the two images: exactly for a basis field, whose J is the same
everywhere, and to first order for a SIREN, with J averaged over scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import MAP, BasisSpec, features
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latents.curvature import jacobian_sweep, rows, spread_points
from medfuncta_dist.meta.sweeps.folded import Folded, fold

SCANS = 32
"""Whose Jacobians are averaged."""
POINTS = 1024
"""Of each of these scans, evenly spaced: with 32 scans as many values as the largest latents have numbers, and more."""
POINTS_AT_ONCE = 512
"""A SIREN's Jacobian by its shifts is in memory for so many: 7 MB at 15 layers of 256."""
TRIED, ORTHONORMAL = 16, 1e-3
"""Random directions by which a basis is tried for orthonormality, and how far squared lengths may be off."""


@torch.no_grad()
def image_curvature(
    network: SharedNetwork, latents: Float[np.ndarray, "scan latent"], shape: Sequence[int]
) -> Float[np.ndarray, "latent latent"]:
    """G at these latents (at most ``SCANS`` of them, evenly chosen) on a grid of ``shape``, float64.

    Latents may be shorter than P (``fit.keep``): the numbers that they lack are zeros.
    """
    if isinstance(network.spec, BasisSpec):
        return _Basis(network.spec, network.params, grid(shape), latents.shape[1]).curvature()
    chosen = latents[np.linspace(0, len(latents) - 1, min(SCANS, len(latents))).astype(int)]
    folded = fold(network.spec, network.params)
    return _of_siren(folded, _sampled(grid(shape)), torch.from_numpy(np.ascontiguousarray(chosen, np.float32)))


def _sampled(coordinates: Tensor) -> Tensor:
    count = len(coordinates)
    return coordinates if count <= POINTS else coordinates[spread_points(count, POINTS / count, 0)]


@dataclass(frozen=True)
class _Basis:
    """The first ``numbers`` functions of a basis field on a grid."""

    spec: BasisSpec
    params: Params
    coordinates: Tensor
    numbers: int

    def curvature(self) -> np.ndarray:
        """The identity where the functions are orthonormal, as training leaves them: found by a few directions, for all
        products of functions cost more than a thousand times as much."""
        directions = torch.randn(self.numbers, TRIED, generator=torch.Generator().manual_seed(0))
        lengths = self._gram(directions).diagonal() / directions.double().square().sum(0)
        if float((lengths - 1).abs().max()) < ORTHONORMAL:
            return np.eye(self.numbers)
        return self._gram(torch.eye(self.numbers)).numpy()

    def _gram(self, directions: Float[Tensor, "number direction"]) -> Float[Tensor, "direction direction"]:
        """Mean product of what two directions of latents change, over the values of the grid."""
        mapped = self.params[MAP][:, : self.numbers] @ directions if self.spec.mapped else directions
        total, values = directions.new_zeros(directions.shape[1], directions.shape[1], dtype=torch.float64), 0
        for part in torch.split(self.coordinates, POINTS_AT_ONCE):
            found = features(self.spec, self.params, part).flatten(0, 1)[:, : len(mapped)]
            changes = (found @ mapped).double()
            total += changes.T @ changes
            values += len(changes)
        return total / values


def _of_siren(folded: Folded, coordinates: Tensor, latents: Tensor) -> np.ndarray:
    """Summed by shifts, of which the latent is mapped once at the end."""
    shifts, size = folded.shifts(latents), len(folded.maps)
    total, values = torch.zeros(size, size, dtype=torch.float64), 0
    for shift in torch.split(shifts, 1):
        for part in torch.split(coordinates, POINTS_AT_ONCE):
            jacobian = rows(jacobian_sweep(folded, part, shift)[0])[0]
            total += jacobian.T @ jacobian
            values += len(jacobian)
    maps = folded.maps.double()
    return (maps.T @ total @ maps / values).numpy()
