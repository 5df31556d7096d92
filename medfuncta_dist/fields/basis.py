"""The basis field: a mean and functions that all scans share; a latent holds a scan's weights of these. Stateless.

    h₁ = sin(ω₁ (W₁x + b₁)),   h_k = sin(ω_k (W_k h_{k−1} + b_k))      k = 2 … K−1
    s_d(x) = channel d's part of h_{K−1}(x), F *features*
    y_d(x) = μ_d(x) + B_d(x) φ,   μ_d = s_d·m + n_d,   B_d = s_d M

It is linear in φ, so the latent that fits a scan best is found in closed form (docs/method.md, 8). While θ is trained,
M is the identity and a latent has F numbers; afterwards M is computed once, P columns that are orthonormal over the
grid and in the order of their variance over the training scans (``meta/closed_form/principal_latents.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, pad

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.params import OUTPUT_OFFSET, Params, check_layers

MAP, MEAN, MEAN_BIAS = "latent.map", "mean.weight", "mean.bias"
"""Names of M, m and n among the tensors of θ."""
GROUP = 32
"""Scans per matrix product, the last ones filled up with zeros: how a product adds up depends on its size, and a scan's
values must not. A multiple of the vector width, so that every row is computed alike; at 32 the product of many scans
is as fast as at 64, and that of one scan costs less than the functions at its points."""


@dataclass(frozen=True)
class BasisSpec:
    """Architecture of a basis field; everything that gives θ its names and shapes, and ω."""

    KIND: ClassVar[str] = "basis"

    coords: int
    channels: int
    layers: int
    """K: K-1 sine layers and the linear one, (m, n) and M."""
    hidden: int
    """Width of all sine layers but the last."""
    features: int
    """F, functions per channel that the last sine layer gives."""
    latent: int
    """P, numbers of a latent."""
    omegas: tuple[float, ...]
    """ω of the K-1 sine layers."""
    mapped: bool
    """Whether there is an M; without one, P = F."""

    def __post_init__(self) -> None:
        check_layers(self.layers, self.omegas)
        sizes = (self.coords, self.channels, self.hidden, self.features, self.latent)
        if min(sizes) < 1:
            raise RunFileError(f"coords, channels, hidden, features and latent must be positive, got {sizes}")
        if self.latent > self.features or (not self.mapped and self.latent != self.features):
            raise RunFileError(f"{self.features} features cannot give {self.latent} numbers a scan")

    def omega(self, k: int) -> float:
        """ω_k of a sine layer."""
        return self.omegas[k - 1]

    def omega_of(self, name: str) -> float:
        """ω of the layer that a tensor of θ belongs to; of those beside the layers, the first's."""
        kind, number, *_ = name.split(".")
        return self.omega(int(number)) if kind == "layer" else self.omega(1)

    @property
    def hidden_matrices(self) -> list[str]:
        """Names of the matrices from one sine layer to the next."""
        return [f"layer.{k}.weight" for k in range(2, self.layers)]

    @property
    def widest(self) -> int:
        """Numbers per point of the widest layer."""
        return max(self.hidden, self.features * self.channels)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor of θ. Weights are (out, in)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for k in range(1, self.layers):
            fan_in = self.coords if k == 1 else self.hidden
            fan_out = self.features * self.channels if k == self.layers - 1 else self.hidden
            shapes |= {f"layer.{k}.weight": (fan_out, fan_in), f"layer.{k}.bias": (fan_out,)}
        shapes |= {MEAN: (self.features,), MEAN_BIAS: (self.channels,)}
        return shapes | ({MAP: (self.features, self.latent)} if self.mapped else {})


def init_params(spec: BasisSpec, generator: torch.Generator) -> Params:
    """Draw θ without M (float32, on the CPU): sine layers as a SIREN's (arXiv 2006.09661), a grey mean.

    The same generator state gives the same θ on every machine and rank.
    """
    params: Params = {}
    for name, shape in spec.shapes().items():
        if name.startswith("layer."):
            k = int(name.split(".")[1])
            bound = 1 / spec.coords if k == 1 else math.sqrt(6 / spec.hidden) / spec.omega(k)
            params[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return params | {MEAN: torch.zeros(spec.features), MEAN_BIAS: torch.full((spec.channels,), OUTPUT_OFFSET)}


def features(
    spec: BasisSpec, params: Params, coordinates: Float[Tensor, "point coord"]
) -> Float[Tensor, "point channel feature"]:
    """s(x): what the last sine layer gives at each point."""
    hidden = coordinates
    for k in range(1, spec.layers):
        phase = linear(hidden, params[f"layer.{k}.weight"], params[f"layer.{k}.bias"])
        hidden = torch.sin(spec.omega(k) * phase)
    return hidden.view(len(coordinates), spec.channels, spec.features)


def mean_of(params: Params, found: Float[Tensor, "point channel feature"]) -> Float[Tensor, "point channel"]:
    """μ(x) from the features at x."""
    return found @ params[MEAN] + params[MEAN_BIAS]


def mean_and_basis(
    spec: BasisSpec, params: Params, coordinates: Float[Tensor, "point coord"]
) -> tuple[Float[Tensor, "point channel"], Float[Tensor, "point channel latent"]]:
    """μ and B at the coordinates: values are μ + Bφ."""
    found = features(spec, params, coordinates)
    return mean_of(params, found), found @ params[MAP] if spec.mapped else found


def field(
    spec: BasisSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    latents: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch point channel"]:
    """Values of each latent's field at the coordinates. No scan's values depend, to the bit, on the other scans of the
    batch, their number or their order.

    Latents may be shorter than P: the numbers that they lack are zeros, which leaves out the last functions.
    """
    mean, basis = mean_and_basis(spec, params, coordinates)
    rows = basis.flatten(0, 1)[:, : latents.shape[1]]
    return mean + _weighted(latents, rows).view(len(latents), *mean.shape)


def _weighted(
    latents: Float[Tensor, "batch latent"], rows: Float[Tensor, "value kept"]
) -> Float[Tensor, "batch value"]:
    """Bφ of every scan, in groups of one size."""
    groups = [pad(group, (0, 0, 0, GROUP - len(group))) @ rows.T for group in torch.split(latents, GROUP)]
    return torch.cat(groups)[: len(latents)]
