"""The gradient of the loss by latents, by hand: one sweep forward through the sines and one back (docs/method.md, 2).

It works in shift space (see ``Folded``): a block's latents come in as shifts and its gradient goes out by shifts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.point_weights import times
from medfuncta_dist.meta.sweeps.folded import Folded, ThetaGradient
from medfuncta_dist.meta.sweeps.layers import (
    back,
    damped,
    onward,
    output,
    output_back,
    share,
    stem,
    stem_back,
    wave,
    waves,
)


def loss_sweep(
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "scan point channel"],
    shifts: Float[Tensor, "scan layer hidden"],
    clamp: bool = False,
    weights: Float[Tensor, "scan point"] | None = None,
) -> Float[Tensor, " scan"]:
    """Each scan's sum of squared errors over a block, times ``weights`` where points have some.

    With ``clamp``, of values clamped to [0, 1] as PSNR wants.
    """
    hidden, _ = stem(network, coordinates)
    for layer, k in enumerate(network.spec.modulated_layers):
        hidden = onward(network, k, hidden, wave(network, k, hidden, shifts[:, layer]))
    values = output(network, hidden)
    return times(((values.clamp(0, 1) if clamp else values) - targets).square(), weights).sum((1, 2))


def gradient_sweep(
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "scan point channel"],
    shifts: Float[Tensor, "scan layer hidden"],
    weight: float,
    theta: ThetaGradient | None = None,
    weights: Float[Tensor, "scan point"] | None = None,
) -> tuple[Float[Tensor, "scan layer hidden"], Float[Tensor, " scan"]]:
    """Gradient by the shifts of ``weight`` x each scan's sum of squared errors over a block, and that sum.

    With ``theta``, the gradient by the folded weights is added there as well. ``weights``: of the points, in the sum.
    """
    spec = network.spec
    incoming: dict[int, Tensor] = {}
    cosines: dict[int, Tensor] = {}
    hidden, stem_cosine = stem(network, coordinates)
    for layer, k in enumerate(spec.modulated_layers):
        if theta is not None:
            incoming[k] = hidden
        sine, cosines[k] = waves(network, k, hidden, shifts[:, layer])
        hidden = onward(network, k, hidden, sine)

    error = output(network, hidden) - targets
    residue = 2 * weight * times(error, weights)
    if theta is not None:
        theta.add_weight(spec.layers, residue, hidden)
        theta.add_bias(spec.layers, residue)

    adjoint = output_back(network, residue)
    gradient = torch.empty_like(shifts)
    for layer, k in reversed(list(enumerate(spec.modulated_layers))):
        through, gradient[:, layer] = damped(network, cosines.pop(k), adjoint)
        if theta is not None:
            below = incoming.pop(k)
            through, adjoint = share(through, len(below)), share(adjoint, len(below))
            theta.add_weight(k, through, below)
        if layer > 0 or (theta is not None and stem_cosine is not None):
            adjoint = back(network, k, through, adjoint)
    if theta is not None and stem_cosine is not None:
        stem_back(network, coordinates, stem_cosine, adjoint, theta)
    return gradient, times(error.square(), weights).sum((1, 2))


def inner_gradient(
    objective: Objective, theta: ThetaGradient | None = None
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, " batch"]]:
    """∇_φ of each scan's mean squared error, and that error; with ``theta``, its gradient by θ is added there as well.

    No graph is kept: memory is that of one chunk.
    """
    gradient, errors = shift_gradient(objective, theta)
    return objective.network.pull_back(gradient), errors


def shift_gradient(
    objective: Objective, theta: ThetaGradient | None = None
) -> tuple[Float[Tensor, "batch layer hidden"], Float[Tensor, " batch"]]:
    """``inner_gradient`` before it is pulled back from the shifts: every layer's part apart."""
    weight, shifts = 1 / objective.values_per_scan, objective.shifts
    gradient, errors = torch.zeros_like(shifts), objective.zero_errors()
    for block in objective.blocks():
        part, error = block.run(gradient_sweep, block.targets, shifts[block.scans], weight, theta, block.weights)
        gradient[block.scans] += part
        errors[block.scans] += error
    if theta is not None:
        theta.add_shifts(gradient, objective.latents)
    return gradient, errors * weight


def losses(objective: Objective, clamp: bool = False) -> Float[Tensor, " batch"]:
    """Each scan's mean squared error, in chunks; with ``clamp``, of values clamped to [0, 1] as PSNR wants."""
    shifts, errors = objective.shifts, objective.zero_errors()
    for block in objective.blocks():
        errors[block.scans] += block.run(loss_sweep, block.targets, shifts[block.scans], clamp, block.weights)
    return errors / objective.values_per_scan
