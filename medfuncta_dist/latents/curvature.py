"""The curvature of a scan's loss in its latent: the Gauss-Newton matrix, computed by hand (docs/method.md, 7).

A value of the field depends on the shifts of its own point's activations alone, so one backward sweep that is not
summed over points gives every row of the Jacobian ∂y/∂s at once: at the cost of the gradient, whatever the latent size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.meta.context import context_size
from medfuncta_dist.meta.machine.products import product
from medfuncta_dist.meta.objective import Block, Objective
from medfuncta_dist.meta.sweeps.folded import Folded
from medfuncta_dist.meta.sweeps.layers import affine, back, onward, output, stem

Jacobian = list[list[Tensor]]
"""∂y/∂s by channel and modulated layer: (scan, point, hidden) each."""

GOLDEN = 0.6180339887498949
"""The fraction whose multiples, modulo 1, are spread most evenly."""


def spread_points(points: int, ratio: float, step: int) -> Int[Tensor, " chosen"]:
    """Indices of a share of the points, evenly spaced, with another offset at each step.

    Evenly, because a random third of 784 points leaves gaps in which a step goes wrong: after 3 steps of the small
    network of docs/method.md, 7, it is 1.2 dB below an even third, and that as good as all points.
    """
    chosen = context_size(points, ratio)
    return ((torch.arange(chosen, dtype=torch.float64) + (step * GOLDEN) % 1) * (points / chosen)).long()


def jacobian_sweep(
    network: Folded, coordinates: Float[Tensor, "point coord"], shifts: Float[Tensor, "scan layer hidden"]
) -> tuple[Jacobian, Float[Tensor, "scan point channel"]]:
    """∂y/∂s of every value of a block, and the values."""
    spec = network.spec
    cosines: dict[int, Tensor] = {}
    hidden, _ = stem(network, coordinates)
    for layer, k in enumerate(spec.modulated_layers):
        phase = affine(network, k, hidden, shifts[:, layer])
        hidden = onward(network, k, hidden, phase.sin())
        cosines[k] = phase.cos_()
    jacobian: Jacobian = []
    for row in network.weights[spec.layers]:
        by_layer: list[Tensor] = []
        adjoint = row.expand_as(hidden).contiguous()
        for layer, k in reversed(list(enumerate(spec.modulated_layers))):
            by_layer.append(cosines[k] * adjoint)
            if layer > 0:
                adjoint = back(network, k, by_layer[-1], adjoint)
        jacobian.append(by_layer[::-1])
    return jacobian, output(network, hidden)


def rows(jacobian: Jacobian, chosen: Tensor | None = None) -> Float[Tensor, "scan value shift"]:
    """The Jacobian as one matrix per scan, of all points or of the ``chosen``: channel by channel."""
    channels = [[part if chosen is None else part[:, chosen] for part in by_layer] for by_layer in jacobian]
    return torch.cat([torch.cat(by_layer, -1) for by_layer in channels], 1)


def curved_gradient(
    objective: Objective, sample: Int[Tensor, " chosen"]
) -> tuple[Float[Tensor, "batch layer hidden"], Float[Tensor, " batch"], Float[Tensor, "batch latent latent"]]:
    """``shift_gradient`` and the curvature by one sweep: the loss's gradient is Jᵀ times the residue.

    The curvature is 2 JᵀJ over the number of values, the Hessian of each scan's mean squared error without its second
    derivatives; it is that of the points in ``sample`` (sorted indices, on the CPU).
    """
    network, weight, shifts = objective.network, 1 / objective.values_per_scan, objective.shifts
    gradient, errors = torch.zeros_like(shifts), objective.zero_errors()
    total = objective.latents.new_zeros(len(shifts), network.spec.latent, network.spec.latent)
    for block in objective.blocks():
        jacobian, values = block.run(jacobian_sweep, shifts[block.scans])
        error = values - block.targets
        errors[block.scans] += error.square().sum((1, 2))
        residue = 2 * weight * error
        for channel, by_layer in enumerate(jacobian):
            for layer, part in enumerate(by_layer):
                gradient[block.scans, layer] += torch.bmm(residue[:, None, :, channel], part)[:, 0]
        _add_squares(total[block.scans], network, rows(jacobian, _inside(sample, block)))
    return gradient, errors * weight, total.mul_(2 / (len(sample) * network.spec.channels))


def _add_squares(total: Tensor, network: Folded, by_shifts: Float[Tensor, "scan value shift"]) -> None:
    """total += JᵀJ with J = ∂y/∂s M̃."""
    flat = product(by_shifts.flatten(0, 1), network.maps, network.arithmetic)
    by_latents = flat.view(*by_shifts.shape[:2], network.spec.latent)  # a block may have no point of the sample
    total.baddbmm_(by_latents.mT, by_latents)


def _inside(sample: Tensor, block: Block) -> Tensor | None:
    """The sample's points within a block, counted from its first; None for all of them."""
    start, stop = block.points.start, block.points.stop
    inside = sample[(sample >= start) & (sample < stop)] - start
    return None if len(inside) == stop - start else inside.to(block.targets.device)
