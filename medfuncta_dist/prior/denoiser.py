"""The prior's network: from a noisy latent, its noise level and its class to the velocity. Stateless.

Residual blocks of two matrices each; noise level and class scale, shift and gate them (adaLN-Zero: Peebles and Xie
2023, arXiv 2212.09748). Gates and output begin at zero, and so does the velocity: for white Gaussian latents that is
the best answer at every noise level, so all that is learned is how latents differ from Gaussian ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.params import Params

WAVES = 64
"""Frequencies of the noise level's embedding: a sine and a cosine of each."""
SLOWEST = 10_000.0
"""The longest of their periods over 2π, in noise levels; the shortest is 1 (Vaswani et al. 2017, arXiv 1706.03762)."""


@dataclass(frozen=True)
class DenoiserSpec:
    """Architecture: everything that gives the parameters their names and shapes."""

    numbers: int
    """R, of a latent in the prior's coordinates."""
    classes: int
    """Without the class of latents of which none is told, which comes last."""
    width: int
    blocks: int

    def __post_init__(self) -> None:
        if min(self.numbers, self.width, self.blocks) < 1 or self.classes < 0:
            raise RunFileError("a prior needs at least one number, one block and a width of one", where="prior")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every parameter. Weights are (out, in)."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "level.weight": (width, 2 * WAVES),
            "level.bias": (width,),
            "class.weight": (self.classes + 1, width),
            "in.weight": (width, self.numbers),
            "in.bias": (width,),
        }
        for block in range(self.blocks):
            shapes |= {
                f"block.{block}.condition.weight": (3 * width, width),
                f"block.{block}.condition.bias": (3 * width,),
                f"block.{block}.up.weight": (2 * width, width),
                f"block.{block}.up.bias": (2 * width,),
                f"block.{block}.down.weight": (width, 2 * width),
                f"block.{block}.down.bias": (width,),
            }
        return shapes | {"out.weight": (self.numbers, width), "out.bias": (self.numbers,)}


def init_params(spec: DenoiserSpec, generator: torch.Generator) -> Params:
    """Draw the parameters (float32, on the CPU): uniform within ±1/√n, as torch's linear layers; biases, conditions and
    the output are zero."""
    params: Params = {}
    for name, shape in spec.shapes().items():
        drawn = name.endswith(".weight") and not name.startswith("out.") and ".condition." not in name
        bound = 1 / math.sqrt(shape[-1]) if drawn else 0.0
        params[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator) if drawn else torch.zeros(shape)
    return params


def velocity(
    spec: DenoiserSpec,
    params: Params,
    noisy: Float[Tensor, "batch number"],
    levels: Int[Tensor, " batch"],
    classes: Int[Tensor, " batch"],
) -> Float[Tensor, "batch number"]:
    """v of each row: what its noise level turns latent and noise into each other with (docs/method.md)."""
    told = linear(_waves(levels), params["level.weight"], params["level.bias"]) + params["class.weight"][classes]
    told, size = silu(told), (spec.width,)
    hidden = linear(noisy, params["in.weight"], params["in.bias"])
    for block in range(spec.blocks):
        own = {
            name.removeprefix(f"block.{block}."): t for name, t in params.items() if name.startswith(f"block.{block}.")
        }
        shift, scale, gate = linear(told, own["condition.weight"], own["condition.bias"]).chunk(3, dim=1)
        inner = silu(linear(layer_norm(hidden, size) * (1 + scale) + shift, own["up.weight"], own["up.bias"]))
        hidden = hidden + gate * linear(inner, own["down.weight"], own["down.bias"])
    return linear(layer_norm(hidden, size), params["out.weight"], params["out.bias"])


def _waves(levels: Int[Tensor, " batch"]) -> Float[Tensor, "batch wave"]:
    periods = torch.logspace(0, math.log10(SLOWEST), WAVES, dtype=torch.float32, device=levels.device)
    phases = levels[:, None].float() / periods
    return torch.cat([phases.sin(), phases.cos()], dim=1)
