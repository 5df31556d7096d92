"""The prior as a trainer sees it: a step's loss is how far the velocity of each noisy latent is from the true one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.prior.denoiser import DenoiserSpec, velocity
from medfuncta_dist.prior.noise_schedule import NoiseSchedule


class PriorLearner(Learner):
    """Holds the denoiser's parameters. White Gaussian latents have a mean loss of 1: less is what is learned."""

    spec: DenoiserSpec

    def __init__(self, spec: DenoiserSpec, start: Params) -> None:
        super().__init__(spec, start, torch.zeros(0, 1))  # no field, and no coordinates
        self._schedule = NoiseSchedule()

    def forward(
        self,
        targets: Float[Tensor, "batch number"],
        latents: Float[Tensor, "batch 1"],
        contexts: Sequence[Tensor],
        weights: Tensor | None = None,
    ) -> Float[Tensor, " batch"]:
        """Each latent's mean squared error. ``contexts``: classes, noise levels, noise; ``latents`` are zeros that tie
        the loss to autograd's graph. There are no ``weights``, for a latent has no points."""
        assert weights is None, "a latent's numbers all count alike"
        return self.losses_of(self.params(), targets, contexts, latents)

    def losses_of(
        self,
        params: Params,
        targets: Float[Tensor, "batch number"],
        contexts: Sequence[Tensor],
        tie: Tensor | float = 0.0,
    ) -> Float[Tensor, " batch"]:
        """The same of whole parameters, which a rank may hold a part of only."""
        classes, levels, noise = contexts
        noisy, wanted = self._schedule.noised(targets, noise, levels)
        found = velocity(self.spec, params, noisy + tie, levels, classes)
        return (found - wanted).square().mean(1)
