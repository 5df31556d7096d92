"""The latent-modulated SIREN: shared network θ, coordinates x and latent φ in, values out. Stateless.

    h₁ = sin(ω₁ (W₁x + b₁ [+ M₁φ + c₁]))
    h_k = [h_{k−1} +] sin(ω_k (W_k h_{k−1} + b_k + M_k φ + c_k))          k = 2 … K−1
    y  = W_K h_{K−1} + b_K + 0.5

Source: Friedrich et al., MedFuncta (arXiv 2502.14401), Eq. 1. The paper has neither bracket; its public code has both
(``residual`` and ``modulate_first``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.params import OUTPUT_OFFSET, Params, check_layers, linear_omegas


@dataclass(frozen=True)
class SirenSpec:
    """Architecture of a latent-modulated SIREN; everything that gives θ its names and shapes, and ω."""

    KIND: ClassVar[str] = "siren"

    coords: int
    channels: int
    layers: int
    hidden: int
    latent: int
    omegas: tuple[float, ...]
    """ω of the K-1 sine layers."""
    residual: bool = True
    modulate_first: bool = False

    def __post_init__(self) -> None:
        check_layers(self.layers, self.omegas)
        sizes = (self.coords, self.channels, self.hidden, self.latent)
        if min(sizes) < 1:
            raise RunFileError(f"coords, channels, hidden and latent must be positive, got {sizes}")

    @classmethod
    def linear(
        cls,
        *,
        coords: int,
        channels: int,
        layers: int,
        hidden: int,
        latent: int,
        omega_first: float,
        omega_last: float,
        residual: bool = True,
        modulate_first: bool = False,
    ) -> SirenSpec:
        """ω rises linearly over K points from ``omega_first`` to ``omega_last``; the last one is not used by a sine."""
        omegas = linear_omegas(layers, omega_first, omega_last)
        return cls(coords, channels, layers, hidden, latent, omegas, residual, modulate_first)

    @property
    def sine_layers(self) -> range:
        """k of the layers with a sine: 1 … K-1."""
        return range(1, self.layers)

    @property
    def modulated_layers(self) -> range:
        """k of the layers that φ shifts."""
        return range(1 if self.modulate_first else 2, self.layers)

    def omega(self, k: int) -> float:
        """ω_k. The last layer's, used only when drawing its weights, continues the schedule by its last increment."""
        if k < self.layers:
            return self.omegas[k - 1]
        continued = 2 * self.omegas[-1] - self.omegas[-2]
        return continued if continued > 0 else self.omegas[-1]

    def omega_of(self, name: str) -> float:
        """ω of the layer that a tensor of θ belongs to."""
        return self.omega(int(name.split(".")[1]))

    @property
    def hidden_matrices(self) -> list[str]:
        """Names of the matrices from one sine layer to the next. By name, not by shape: a latent's map M_k that
        happens to be square, because P = L, is none."""
        return [f"layer.{k}.weight" for k in range(2, self.layers)]

    @property
    def widest(self) -> int:
        """Numbers per point of the widest layer."""
        return self.hidden

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor of θ, ``layer.{k}`` and ``modulation.{k}`` in the order of the formula. Weights
        are (out, in)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for k in range(1, self.layers + 1):
            fan_in = self.coords if k == 1 else self.hidden
            fan_out = self.channels if k == self.layers else self.hidden
            shapes[f"layer.{k}.weight"] = (fan_out, fan_in)
            shapes[f"layer.{k}.bias"] = (fan_out,)
            if k in self.modulated_layers:
                shapes[f"modulation.{k}.weight"] = (self.hidden, self.latent)
                shapes[f"modulation.{k}.bias"] = (self.hidden,)
        return shapes


def init_bound(spec: SirenSpec, name: str) -> float:
    """Half width of the uniform distribution that a tensor of θ is drawn from.

    First layer 1/n, others √(6/n)/ω_k with n the fan-in (Sitzmann et al., SIREN, arXiv 2006.09661); modulations 1/√P,
    a linear layer's default in torch, as in the public code.
    """
    kind, number, _ = name.split(".")
    k = int(number)
    if kind == "modulation":
        return 1 / math.sqrt(spec.latent)
    if k == 1:
        return 1 / spec.coords
    return math.sqrt(6 / spec.hidden) / spec.omega(k)


def init_params(spec: SirenSpec, generator: torch.Generator) -> Params:
    """Draw θ (float32, on the CPU): the same generator state gives the same θ on every machine and rank."""
    params: Params = {}
    for name, shape in spec.shapes().items():
        bound = init_bound(spec, name)
        params[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return params


def field(
    spec: SirenSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    latents: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch point channel"]:
    """Values of each latent's field at the coordinates. No scan's values depend on another scan of the batch."""
    # A layer without modulation is the same for every scan: it keeps a batch axis of 1 until a shift broadcasts it.
    hidden = coordinates[None]
    for k in spec.sine_layers:
        phase = linear(hidden, params[f"layer.{k}.weight"], params[f"layer.{k}.bias"])
        if k in spec.modulated_layers:
            shift = linear(latents, params[f"modulation.{k}.weight"], params[f"modulation.{k}.bias"])
            phase = phase + shift[:, None]
        wave = torch.sin(spec.omega(k) * phase)
        hidden = hidden + wave if spec.residual and k > 1 else wave
    return linear(hidden, params[f"layer.{spec.layers}.weight"], params[f"layer.{spec.layers}.bias"]) + OUTPUT_OFFSET
