"""Inner rates: how far an inner step goes, for each step, modulated layer and latent dimension (docs/method.md, 5).

    φ_{g+1} = φ_g − Σ_k r_{g,k} ⊙ M̃_kᵀ ∂L/∂s_k

With one number r for all of them this is the plain step φ − r ∇_φL, for ∇_φL = Σ_k M̃_kᵀ ∂L/∂s_k.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.siren import SirenSpec

Rate = float | Tensor
"""A number, or a tensor [P], [G, P] or [G, J, P] (inner steps, modulated layers, latent size), each axis whole or 1."""


def inner_rates(spec: SirenSpec, rate: Rate, like: Tensor) -> Float[Tensor, "step layer latent"]:
    """A rate with all its axes, of the type and on the device of ``like``. RunFileError for a shape that fits none."""
    given = torch.as_tensor(rate, dtype=like.dtype, device=like.device)
    whole = given[:, None] if given.dim() == 2 else given[(None,) * max(0, 3 - given.dim())]
    layers, latent = len(spec.modulated_layers), spec.latent
    if whole.dim() != 3 or whole.shape[0] < 1 or whole.shape[1] not in (1, layers) or whole.shape[2] not in (1, latent):
        raise RunFileError(
            f"inner rates of shape {list(given.shape)} fit no field of {layers} modulated layers and latent size "
            f"{latent}",
            do="give one number, [P], [G, P] or [G, layers, P]; any axis may have size 1",
        )
    return whole


def of_step(rates: Float[Tensor, "step layer latent"], step: int) -> Float[Tensor, "layer latent"]:
    """The rates of an inner step (0-based). Steps beyond the last that has its own go on with the last's."""
    return rates[min(step, len(rates) - 1)]


def layer_rates(spec: SirenSpec, rate: float) -> Float[Tensor, "1 layer 1"]:
    """``rate`` at the first modulated layer, falling as 1/ω² with depth: then no layer's shift outruns the others."""
    omegas = torch.tensor([spec.omega(k) for k in spec.modulated_layers])
    return (rate * (omegas[0] / omegas) ** 2)[None, :, None]
