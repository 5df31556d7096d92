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
from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.directional import directional_gradient
from medfuncta_dist.meta.folded import Folded, ThetaGradient, fold
from medfuncta_dist.meta.inner_gradient import inner_gradient, losses


@dataclass(frozen=True)
class MetaGradient:
    """Per-scan outer losses, and the gradients of their sum by θ and by the initial latents."""

    losses: Float[Tensor, " batch"]
    params: Params
    latents: Float[Tensor, "batch latent"]


@torch.no_grad()
def descend(
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: float,
    chunks: Chunks,
) -> list[Float[Tensor, "batch latent"]]:
    """The inner loop without a graph: φ₀ … φ_G."""
    path = [latents.detach()]
    for context in contexts:
        gradient, _ = inner_gradient(network, *_seen(coordinates, targets, context), path[-1], chunks)
        path.append(path[-1] - rate * gradient)
    return path


@torch.no_grad()
def adapted_losses(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: float,
    chunks: Chunks,
) -> Float[Tensor, " batch"]:
    """Per-scan outer losses alone, as validation needs them."""
    network = fold(spec, params)
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
    rate: float,
    chunks: Chunks,
) -> MetaGradient:
    """Outer losses after one inner step per context set, and the exact second-order gradients of their sum."""
    network = fold(spec, params)
    theta = ThetaGradient(network)
    path = descend(network, coordinates, targets, latents, contexts, rate, chunks)
    # λ = ∂(outer loss)/∂φ_{g+1}, from the last latents back to the first.
    pull, outer = inner_gradient(network, coordinates, targets, path[-1], chunks, theta)
    for latents_g, context in zip(reversed(path[:-1]), reversed(contexts), strict=True):
        # φ_{g+1} = φ_g − α∇L: along −αλ, the speed of L has the gradients that this step adds to θ's and to λ.
        seen = _seen(coordinates, targets, context)
        pull = pull + directional_gradient(network, *seen, latents_g, -rate * pull, chunks, theta)
    return MetaGradient(outer, theta.unfold(), pull)


def _seen(coordinates: Tensor, targets: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates and targets of a context set; a full one needs no copy, for its indices are sorted."""
    if len(context) == len(coordinates):
        return coordinates, targets
    context = context.to(targets.device)
    return coordinates[context], targets[:, context]
