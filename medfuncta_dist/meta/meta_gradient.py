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

from medfuncta_dist.fields.siren import FieldSpec, Params
from medfuncta_dist.meta.inner_rates import Rate, inner_rates, of_step
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.directional import directional_gradient
from medfuncta_dist.meta.sweeps.folded import Folded, ThetaGradient, fold
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
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: Rate,
    chunks: Chunks,
) -> list[Float[Tensor, "batch latent"]]:
    """The inner loop without a graph: φ₀ … φ_G."""
    path, rates = [latents.detach()], inner_rates(network.spec, rate, latents)
    for g, context in enumerate(contexts):
        by_shifts, _ = shift_gradient(network, *_seen(coordinates, targets, context), path[-1], chunks)
        here = of_step(rates, g)
        path.append(path[-1] - (here * network.pull_back_apart(by_shifts, len(here))).sum(1))
    return path


@torch.no_grad()
def adapted_losses(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: Rate,
    chunks: Chunks,
    arithmetic: Arithmetic | None = None,
) -> Float[Tensor, " batch"]:
    """Per-scan outer losses alone, as validation needs them."""
    network = fold(spec, params, arithmetic)
    path = descend(network, coordinates, targets, latents, contexts, rate, chunks)
    return losses(network, coordinates, targets, path[-1], chunks)


@torch.no_grad()
def meta_gradient(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: Rate,
    chunks: Chunks,
    arithmetic: Arithmetic | None = None,
) -> MetaGradient:
    """Outer losses after one inner step per context set, and the exact second-order gradients of their sum."""
    network, rates = fold(spec, params, arithmetic), inner_rates(spec, rate, latents)
    by_rates = torch.zeros_like(rates)
    theta = ThetaGradient(network)
    path = descend(network, coordinates, targets, latents, contexts, rates, chunks)
    # λ = ∂(outer loss)/∂φ_{g+1}, from the last latents back to the first.
    pull, outer = inner_gradient(network, coordinates, targets, path[-1], chunks, theta)
    for g in reversed(range(len(contexts))):
        # φ_{g+1} = φ_g − r∇L: along −rλ, the speed of L has the gradients that this step adds to θ's and to λ.
        seen, here = _seen(coordinates, targets, contexts[g]), of_step(rates, g)
        direction = -here * pull[:, None]
        by_latents, by_shifts = directional_gradient(network, *seen, path[g], direction, chunks, theta)
        by_rate = -pull[:, None] * network.pull_back_apart(by_shifts, len(here))
        of_step(by_rates, g).add_(by_rate.sum(0).sum_to_size(here.shape))
        pull = pull + by_latents
    return MetaGradient(outer, theta.unfold(), pull, by_rates)


def _seen(coordinates: Tensor, targets: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates and targets of a context set; a full one needs no copy, for its indices are sorted."""
    if len(context) == len(coordinates):
        return coordinates, targets
    context = context.to(targets.device)
    return coordinates[context], targets[:, context]
