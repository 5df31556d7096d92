"""Problems whose points have weights, and the textbook formula for them through plain autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuncta_dist.fields.siren import field
from tests.unit.meta.problems import Problem, problem


def weights_of(points: int, context: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Of five scans: unequal weights, a mask, no weight, weights outside of a context set alone, and 7 everywhere."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(5, points, generator=generator, dtype=torch.float64)
    weights[1] = (weights[1] > 0.4).double()
    weights[2] = 0
    weights[3, context] = 0
    weights[4] = 7
    return weights.to(dtype)


def weighted_problem(
    dims: int = 2, variant: str = "paper", ratio: float = 0.5, dtype: torch.dtype = torch.float64
) -> tuple[Problem, Tensor, Tensor]:
    """A problem of five scans, their weights, and the targets with NaN wherever a point has no weight."""
    p = problem(dims, variant, ratio, batch=5, steps=2, dtype=dtype)
    context = p.contexts[0] if ratio < 1 else torch.arange(3)
    weights = weights_of(len(p.coordinates), context, dtype)
    return p, weights, torch.where(weights[..., None] > 0, p.targets, math.nan)


def textbook_loss(values: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Σ w ‖f − y‖² / (D Σ w) of each scan; 0 where Σ w is 0."""
    total = weights.sum(1)
    squares = (weights[..., None] * (values - targets) ** 2).sum((1, 2))
    return torch.where(total > 0, squares / (values.shape[2] * torch.where(total > 0, total, 1)), 0)


def textbook(p: Problem, weights: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Outer losses, and autograd's gradients of their sum by θ and by the initial latents."""
    params = {name: tensor.clone().requires_grad_() for name, tensor in p.params.items()}
    start = latents = p.latents.clone().requires_grad_()
    for context in p.contexts:
        values = field(p.spec, params, p.coordinates[context], latents)
        loss = textbook_loss(values, p.targets[:, context], weights[:, context]).sum()
        (gradient,) = torch.autograd.grad(loss, latents, create_graph=True)
        latents = latents - p.rate * gradient
    losses = textbook_loss(field(p.spec, params, p.coordinates, latents), p.targets, weights)
    *found, by_start = torch.autograd.grad(losses.sum(), [*params.values(), start])
    return losses.detach(), dict(zip(params, found, strict=True)), by_start
