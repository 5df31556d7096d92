"""The exact meta-gradient without the unrolled graph: the inner loop forward, then back over its latents.

Only φ₀ … φ_G are kept; each step's own sweeps are made again, in chunks, on the way back (docs/method.md, 4). So
activation memory is one chunk's, whatever the number of points, scans and inner steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.inner_rates import Rate, inner_rates, of_step
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.directional import directional_gradient
from medfuncta_dist.meta.sweeps.folded import ThetaGradient
from medfuncta_dist.meta.sweeps.inner_gradient import inner_gradient, losses, shift_gradient


@dataclass(frozen=True)
class MetaGradient:
    """Per-scan outer losses, and the gradients of their sum by θ, by the initial latents and by the inner rates."""

    losses: Float[Tensor, " batch"]
    params: Params
    latents: Float[Tensor, "batch latent"]
    rates: Float[Tensor, "step rated width"]
    """In the rates' own shape with all three axes: what an axis of 1 stands for is summed."""


@torch.no_grad()
def descend(
    objective: Objective, contexts: Sequence[Int[Tensor, " context"]], rate: Rate
) -> list[Float[Tensor, "batch latent"]]:
    """The inner loop without a graph, from the objective's latents: φ₀ … φ_G."""
    network, path = objective.network, [objective.latents.detach()]
    rates = inner_rates(network.spec, rate, objective.latents)
    for g, context in enumerate(contexts):
        by_shifts, _ = shift_gradient(objective.on(context).at(path[-1]))
        here = of_step(rates, g)
        path.append(path[-1] - (here * network.pull_back_apart(by_shifts, len(here))).sum(1))
    return path


@torch.no_grad()
def adapted_losses(
    objective: Objective, contexts: Sequence[Int[Tensor, " context"]], rate: Rate
) -> Float[Tensor, " batch"]:
    """Per-scan outer losses alone, as validation needs them."""
    return losses(objective.at(descend(objective, contexts, rate)[-1]))


@torch.no_grad()
def meta_gradient(objective: Objective, contexts: Sequence[Int[Tensor, " context"]], rate: Rate) -> MetaGradient:
    """Outer losses after one inner step per context set, and the exact second-order gradients of their sum.

    The inner loop begins at the objective's latents; the outer loss is that on all its points.
    """
    network = objective.network
    rates, theta = inner_rates(network.spec, rate, objective.latents), ThetaGradient(network)
    by_rates = torch.zeros_like(rates)
    path = descend(objective, contexts, rates)
    # λ = ∂(outer loss)/∂φ_{g+1}, from the last latents back to the first.
    pull, outer = inner_gradient(objective.at(path[-1]), theta)
    for g in reversed(range(len(contexts))):
        # φ_{g+1} = φ_g − r∇L: along −rλ, the speed of L has the gradients that this step adds to θ's and to λ.
        seen, here = objective.on(contexts[g]).at(path[g]), of_step(rates, g)
        by_latents, by_shifts = directional_gradient(seen, -here * pull[:, None], theta)
        by_rate = -pull[:, None] * network.pull_back_apart(by_shifts, len(here))
        of_step(by_rates, g).add_(by_rate.sum(0).sum_to_size(here.shape))
        pull = pull + by_latents
    return MetaGradient(outer, theta.unfold(), pull, by_rates)
