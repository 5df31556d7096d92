"""How the inner gradient along a direction depends on everything else, by hand (docs/method.md, 3).

S = ⟨∇_φL, v⟩ is the speed of the loss as φ moves along v. It takes one sweep forward, in which every activation carries
its motion along v, and one back. Its gradient by φ is the Hessian times v; its gradient by θ is what one inner step
owes to θ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.point_weights import times
from medfuncta_dist.meta.sweeps.folded import Folded, ThetaGradient
from medfuncta_dist.meta.sweeps.layers import (
    back,
    damped_motion,
    moving_waves,
    onward,
    output,
    output_back,
    output_motion,
    share,
    stem,
    stem_back,
)


@dataclass(frozen=True)
class _Layer:
    """What the way forward leaves for the way back: the layer's input, that input's motion, cos z and ż sin z."""

    incoming: Tensor
    motion: Tensor | None
    cosine: Tensor
    curvature: Tensor


def directional_sweep(
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "scan point channel"],
    shifts: Float[Tensor, "scan layer hidden"],
    tangents: Float[Tensor, "scan layer hidden"],
    weight: float,
    theta: ThetaGradient,
    weights: Float[Tensor, "scan point"] | None = None,
) -> tuple[Float[Tensor, "scan layer hidden"], Float[Tensor, "scan layer hidden"]]:
    """Gradients of S by the shifts and by the tangents, for ``weight`` x the sum of squared errors over a block.

    The gradient by the folded weights is added to ``theta``. The one by the tangents is the inner gradient itself.
    ``weights``: of the points, in the sum.
    """
    spec, last = network.spec, network.spec.layers
    below, stem_cosine = stem(network, coordinates)
    layers, hidden, motion = _forward(network, below, shifts, tangents)

    residue = 2 * weight * times(output(network, hidden) - targets, weights)
    residue_motion = 2 * weight * times(output_motion(network, motion), weights)
    theta.add_weight(last, residue_motion, hidden)
    theta.add_weight(last, residue, motion)
    theta.add_bias(last, residue_motion)

    adjoint, motion_adjoint = output_back(network, residue_motion), output_back(network, residue)
    by_shifts, by_tangents = torch.empty_like(shifts), torch.empty_like(tangents)
    for layer, k in reversed(list(enumerate(spec.modulated_layers))):
        kept = layers.pop()
        through, motion_through, by_shifts[:, layer], by_tangents[:, layer] = damped_motion(
            network, kept.cosine, kept.curvature, adjoint, motion_adjoint
        )
        if kept.motion is not None:
            theta.add_weight(k, motion_through, kept.motion)
            motion_adjoint = back(network, k, motion_through, motion_adjoint)
        through, adjoint = share(through, len(kept.incoming)), share(adjoint, len(kept.incoming))
        theta.add_weight(k, through, kept.incoming)
        if layer > 0 or stem_cosine is not None:
            adjoint = back(network, k, through, adjoint)
    if stem_cosine is not None:
        stem_back(network, coordinates, stem_cosine, adjoint, theta)
    return by_shifts, by_tangents


def directional_gradient(
    objective: Objective, directions: Float[Tensor, "batch rated latent"], theta: ThetaGradient
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch layer hidden"]]:
    """∂S/∂φ = ∇²L v for every scan's mean squared error L and its own direction v; ∂S/∂θ is added to ``theta``.

    A direction is one for all layers, or one for each. The second result is ∂L/∂s, the inner gradient by shifts.
    """
    weight = 1 / objective.values_per_scan
    shifts, tangents = objective.shifts, objective.network.tangents(directions)
    by_shifts, by_tangents = torch.zeros_like(shifts), torch.zeros_like(tangents)
    for block in objective.blocks():
        moving = shifts[block.scans], tangents[block.scans]
        shift_part, tangent_part = block.run(directional_sweep, block.targets, *moving, weight, theta, block.weights)
        by_shifts[block.scans] += shift_part
        by_tangents[block.scans] += tangent_part
    theta.add_shifts(by_shifts, objective.latents)
    theta.add_tangents(by_tangents, directions)
    return objective.network.pull_back(by_shifts), by_tangents


def _forward(network: Folded, hidden: Tensor, shifts: Tensor, tangents: Tensor) -> tuple[list[_Layer], Tensor, Tensor]:
    """Activations and their motion up to the last sine, and what each layer leaves for the way back."""
    layers: list[_Layer] = []
    motion: Tensor | None = None
    for layer, k in enumerate(network.spec.modulated_layers):
        # Nothing below the first shift moves: there is no motion yet.
        moving = moving_waves(network, k, hidden, motion, shifts[:, layer], tangents[:, layer])
        sine, cosine, curvature, wave = moving
        layers.append(_Layer(hidden, motion, cosine, curvature))
        hidden = onward(network, k, hidden, sine)
        motion = wave if motion is None else onward(network, k, motion, wave)
    assert motion is not None, "every field has a modulated layer"
    return layers, hidden, motion
