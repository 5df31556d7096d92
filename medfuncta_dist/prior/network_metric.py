"""The network's own metric on latents: how far apart the images are that two latents decode to. Pure.

    (φ − φ')ᵀ G (φ − φ')  ≈  the mean squared difference of their values,    G = mean over scans of JᵀJ / values

J is ∂y/∂φ. A basis field's J is the same everywhere, so G is exact; it is the identity in the latent's own coordinates
(docs/method.md, 8). A SIREN's G is its Gauss-Newton curvature, halved, averaged over scans.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec, mean_and_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.curvature import Sample, curved_gradient, spread_points
from medfuncta_dist.latents.curvature_forms import Primal
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold

MOST_POINTS = 2**14
"""Of a grid, evenly spread: a volume's other points tell little more of a mean over points."""
MOST_SCANS, SCANS_AT_ONCE = 64, 2
"""Of a SIREN: so many scans' curvatures are averaged. Two of P = 4096 take 134 MB at once."""


@torch.no_grad()
def network_metric(
    network: SharedNetwork, latents: Float[Tensor, "scan latent"], shape: Sequence[int]
) -> Float[Tensor, "latent latent"]:
    """G in float64, of latents as long as these, over a grid of ``shape``; of a SIREN at these latents, evenly
    chosen."""
    coordinates = grid(shape)
    ratio = min(1.0, MOST_POINTS / len(coordinates))
    chosen = spread_points(len(coordinates), ratio, 0)
    if isinstance(network.spec, BasisSpec):
        return _of_basis(network.spec, network.params, coordinates[chosen], latents.shape[1])
    step = max(1, len(latents) // MOST_SCANS)
    return _of_siren(network.spec, network.params, coordinates[chosen], latents[::step][:MOST_SCANS])


def _of_basis(spec: BasisSpec, params: Params, coordinates: Tensor, latent: int) -> Tensor:
    found = torch.zeros(latent, latent, dtype=torch.float64)
    for part in torch.split(coordinates, 1024):
        rows = mean_and_basis(spec, params, part)[1].flatten(0, 1)[:, :latent].double()
        found.addmm_(rows.T, rows)
    return found / (len(coordinates) * spec.channels)


def _of_siren(spec: SirenSpec, params: Params, coordinates: Tensor, latents: Tensor) -> Tensor:
    network, sample = fold(spec, params), Sample.of(torch.arange(len(coordinates)), coordinates.device)
    found = torch.zeros(spec.latent, spec.latent, dtype=torch.float64)
    for some in torch.split(latents, SCANS_AT_ONCE):
        targets = some.new_zeros(len(some), len(coordinates), spec.channels)
        objective = Objective(network, coordinates, targets, some, Chunks.sized(spec.hidden))
        curvature = curved_gradient(objective, sample, Primal)[2]
        assert isinstance(curvature, Primal)
        found += curvature.matrix.double().sum(0) / 2  # the curvature of a squared error is twice JᵀJ
    return found / len(latents)
