"""The inner loop: latents by gradient descent on each scan's own loss, with plain autograd.

    φ_{g+1} = φ_g − α ∇_φ L(φ_g, θ; C_g),   L the mean squared error over the context set C_g

Source: CAVIA (Zintgraf et al., arXiv 1810.03642), as used by MedFuncta.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.fields.siren import FieldSpec, Params, field
from medfuncta_dist.meta.losses import mse


def adapt(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: float,
    create_graph: bool,
) -> Float[Tensor, "batch latent"]:
    """Latents after one inner step per context set.

    With ``create_graph`` the result is differentiable, to second order, in ``params`` and in the initial latents;
    without, each step's graph is freed and the result is detached.
    """
    for context in contexts:
        latents = _inner_step(
            spec, params, coordinates, targets, latents, context.to(targets.device), rate, create_graph
        )
    return latents


@torch.enable_grad()
def _inner_step(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    context: Int[Tensor, " context"],
    rate: float,
    create_graph: bool,
) -> Float[Tensor, "batch latent"]:
    if not (create_graph and latents.requires_grad):
        latents = latents.detach().requires_grad_()
    values = field(spec, params, coordinates[context], latents)
    # Summed over scans: each latent's gradient is that of its own loss, whatever the batch.
    loss = mse(values, targets[:, context]).sum()
    (gradient,) = torch.autograd.grad(loss, latents, create_graph=create_graph)
    stepped = latents - rate * gradient
    return stepped if create_graph else stepped.detach()
