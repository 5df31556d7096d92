"""The inner loop: latents by gradient descent on each scan's own loss, with plain autograd.

    φ_{g+1} = φ_g − α ∇_φ L(φ_g, θ; C_g),   L the (weighted) mean squared error over the context set C_g

or, with rates that differ by layer, by the gradients of L by each layer's own copy of φ (see ``inner_rates.py``).
Source: CAVIA (Zintgraf et al., arXiv 1810.03642), as used by MedFuncta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, field
from medfuncta_dist.meta.inner_rates import Rate, inner_rates, of_step
from medfuncta_dist.meta.losses import mse


def adapt(
    spec: SirenSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    contexts: Sequence[Int[Tensor, " context"]],
    rate: Rate,
    create_graph: bool,
    weights: Float[Tensor, "batch point"] | None = None,
) -> Float[Tensor, "batch latent"]:
    """Latents after one inner step per context set. ``weights``: how much each point counts, None for all alike.

    With ``create_graph`` the result is differentiable, to second order, in ``params``, in the initial latents and in
    the rates; without, each step's graph is freed and the result is detached.
    """
    rates = inner_rates(spec, rate, latents)
    for g, context in enumerate(contexts):
        context, here = context.to(targets.device), of_step(rates, g)
        latents = _inner_step(spec, params, coordinates, targets, latents, context, here, create_graph, weights)
    return latents


@torch.enable_grad()
def _inner_step(
    spec: SirenSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    latents: Float[Tensor, "batch latent"],
    context: Int[Tensor, " context"],
    rates: Float[Tensor, "#layer #latent"],
    create_graph: bool,
    weights: Float[Tensor, "batch point"] | None,
) -> Float[Tensor, "batch latent"]:
    if not (create_graph and latents.requires_grad):
        latents = latents.detach().requires_grad_()
    layers = len(rates)
    copies = latents.repeat(1, layers)
    spec, params = (spec, params) if layers == 1 else _one_latent_a_layer(spec, params)
    values = field(spec, params, coordinates[context], copies)
    # Summed over scans: each latent's gradient is that of its own loss, whatever the batch.
    loss = mse(values, targets[:, context], None if weights is None else weights[:, context]).sum()
    (gradient,) = torch.autograd.grad(loss, copies, create_graph=create_graph)
    stepped = latents - (rates * gradient.view(len(latents), layers, -1)).sum(1)
    return stepped if create_graph else stepped.detach()


def _one_latent_a_layer(spec: SirenSpec, params: Params) -> tuple[SirenSpec, Params]:
    """The same field with a latent that is J times as long, of which every modulated layer sees its own part only."""
    whole, layers = dict(params), len(spec.modulated_layers)
    for layer, k in enumerate(spec.modulated_layers):
        map_ = params[f"modulation.{k}.weight"]
        before, after = layer * spec.latent, (layers - 1 - layer) * spec.latent
        whole[f"modulation.{k}.weight"] = torch.nn.functional.pad(map_, (before, after))
    return replace(spec, latent=layers * spec.latent), whole
