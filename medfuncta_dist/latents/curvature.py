"""How a scan's loss bends as its latent moves: the Gauss-Newton matrix, by hand (docs/method.md, 7).

A value of the field depends on the shifts of its own point's activations alone, so one backward sweep that is not
summed over points gives every row of the Jacobian ∂y/∂s at once: as dear as the gradient, whatever the latent size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.context import context_size
from medfuncta_dist.meta.folded import Folded
from medfuncta_dist.meta.layers import affine, back, onward, output, stem
from medfuncta_dist.meta.products import product

GOLDEN = 0.6180339887498949
"""The fraction whose multiples, modulo 1, keep clear of each other best."""


def spread_points(points: int, ratio: float, step: int) -> Int[Tensor, " chosen"]:
    """Indices of a share of the points, evenly spaced, beginning elsewhere at each step.

    Evenly, because a random third of 784 points leaves gaps in which a step goes wrong: after 3 steps of the small
    network of docs/method.md, 7, it is 1.2 dB below an even third, and that as good as all points.
    """
    chosen = context_size(points, ratio)
    return ((torch.arange(chosen, dtype=torch.float64) + (step * GOLDEN) % 1) * (points / chosen)).long()


def jacobian_sweep(
    network: Folded, coordinates: Float[Tensor, "point coord"], shifts: Float[Tensor, "scan layer hidden"]
) -> tuple[Float[Tensor, "channel scan point layer hidden"], Float[Tensor, "scan point channel"]]:
    """∂y/∂s of every value of a block, and the values."""
    spec = network.spec
    cosines: dict[int, Tensor] = {}
    hidden, _ = stem(network, coordinates)
    for layer, k in enumerate(spec.modulated_layers):
        phase = affine(network, k, hidden, shifts[:, layer])
        hidden = onward(network, k, hidden, phase.sin())
        cosines[k] = phase.cos_()
    jacobian = shifts.new_empty(spec.channels, len(shifts), len(coordinates), *shifts.shape[1:])
    for channel, row in enumerate(network.weights[spec.layers]):
        adjoint = row.expand_as(hidden).contiguous()
        for layer, k in reversed(list(enumerate(spec.modulated_layers))):
            through = torch.mul(cosines[k], adjoint, out=jacobian[channel, :, :, layer])
            if layer > 0:
                adjoint = back(network, k, through, adjoint)
    return jacobian, output(network, hidden)


def curvature(
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    latents: Float[Tensor, "batch latent"],
    chunks: Chunks,
) -> Float[Tensor, "batch latent latent"]:
    """2 JᵀJ over the number of values: the Hessian of each scan's mean squared error without its second derivatives."""
    shifts, size = network.shifts(latents), latents.shape[1]
    total = latents.new_zeros(len(latents), size, size)
    for scans, points in chunks.blocks(len(latents), len(coordinates)):
        by_shifts, _ = jacobian_sweep(network, coordinates[points], shifts[scans])
        rows = product(by_shifts.flatten(0, 2).flatten(1), network.maps)
        rows = rows.view(*by_shifts.shape[:3], size).transpose(0, 1).flatten(1, 2)
        total[scans].baddbmm_(rows.mT, rows)
    return total.mul_(2 / (len(coordinates) * network.spec.channels))
