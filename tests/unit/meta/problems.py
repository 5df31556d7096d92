"""Small meta-learning problems for the tests of meta/ and latents/fit: every dimension, both published variants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold

SHAPES = {1: (17,), 2: (5, 4), 3: (3, 4, 3)}


@dataclass
class Problem:
    spec: SirenSpec
    params: Params
    coordinates: Tensor
    targets: Tensor
    latents: Tensor
    contexts: list[Tensor]
    rate: float | Tensor = 0.1

    def objective(self, chunks: Chunks, arithmetic: Arithmetic | None = None) -> Objective:
        network = fold(self.spec, self.params, arithmetic)
        return Objective(network, self.coordinates, self.targets, self.latents, chunks)


def problem(
    dims: int,
    variant: str,
    ratio: float,
    *,
    batch: int = 3,
    steps: int = 3,
    hidden: int = 4,
    latent: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    """``variant``: 'paper' (no residual, first layer free) or 'code' (both, and an irregular list of omegas)."""
    code = variant == "code"
    omegas = (2.0, 4.5, 3.0) if code else (2.0, 3.0, 4.0)
    spec = SirenSpec(dims, 2, 4, hidden, latent, omegas, residual=code, modulate_first=code)
    generator = torch.Generator().manual_seed(seed)
    params = {name: tensor.to(dtype) for name, tensor in init_params(spec, generator).items()}
    coordinates = grid(SHAPES[dims], dtype=dtype)
    targets = torch.rand(batch, len(coordinates), 2, generator=generator, dtype=torch.float64).to(dtype)
    latents = 0.1 * torch.randn(batch, latent, generator=generator, dtype=torch.float64).to(dtype)
    contexts = context_sets(len(coordinates), ratio, steps, seed=seed, outer_step=1)
    return Problem(spec, params, coordinates, targets, latents, contexts)
