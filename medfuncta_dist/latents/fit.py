"""Fitting: the latent of every scan of a batch, the shared network frozen. Runs on bare torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medfuncta_dist.fields.siren import FieldSpec, Params
from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.folded import fold
from medfuncta_dist.meta.inner_gradient import losses
from medfuncta_dist.meta.losses import psnr_of_mse
from medfuncta_dist.meta.meta_gradient import descend


@dataclass(frozen=True)
class FitSettings:
    """How latents are fitted. Contexts come from ``seed`` and the step, so every scan of a data set sees the same.

    ``chunks`` bounds the activations (default: ``Chunks.sized``) and decides the last bits: record it with the latents.
    """

    steps: int = 20
    rate: float = 1e-2
    selection_ratio: float = 1.0
    seed: int = 0
    chunks: Chunks | None = None


@dataclass(frozen=True)
class FitResult:
    """One row a scan: its latent, the PSNR (dB) of decoding it, and whether all of it is finite."""

    latents: Float[Tensor, "batch latent"]
    psnr: Float[Tensor, " batch"]
    finite: Bool[Tensor, " batch"]


@torch.no_grad()
def fit_batch(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    settings: FitSettings,
) -> FitResult:
    """Fit every scan from φ = 0. Rows do not see each other: a scan's bits depend on its own values, its place in the
    batch and the batch's size, not on its neighbours, so a short batch may be padded with anything.

    A scan that is not finite, or whose fit diverges, comes back with ``finite`` False; its neighbours are unharmed.
    """
    network, chunks = fold(spec, params), settings.chunks or Chunks.sized(spec.hidden)
    start = targets.new_zeros(len(targets), spec.latent)
    contexts = context_sets(
        len(coordinates), settings.selection_ratio, settings.steps, seed=settings.seed, outer_step=0
    )
    latents = descend(network, coordinates, targets, start, contexts, settings.rate, chunks)[-1]
    quality = psnr_of_mse(losses(network, coordinates, targets, latents, chunks, clamp=True))
    finite = torch.isfinite(latents).all(dim=1) & torch.isfinite(quality)
    return FitResult(latents, quality, finite)
