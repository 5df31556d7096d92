"""One layer of the folded network, forward and back: the steps that every hand-written sweep is made of.

Tensors are (scan, point, hidden). Below the first modulated layer all scans are alike, and a scan axis of 1 stands for
all of them; the first shift broadcasts it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.machine.products import product, product_plus, product_plus_row
from medfuncta_dist.meta.sweeps.folded import Folded, ThetaGradient


def stem(
    network: Folded, coordinates: Float[Tensor, "point coord"]
) -> tuple[Float[Tensor, "1 point width"], Float[Tensor, "1 point width"] | None]:
    """What the first modulated layer sees: h₁, with cos of its phase; or the coordinates themselves, with None."""
    if 1 in network.spec.modulated_layers:
        return coordinates[None], None
    phase = _first_phase(network, coordinates)[None]
    return phase.sin(), phase.cos_()


def _first_phase(network: Folded, coordinates: Float[Tensor, "point coord"]) -> Float[Tensor, "point width"]:
    """W̃₁x + b̃₁, float32 at every precision: ω is largest here, and a rounded coordinate is another point."""
    weight, bias = network.weights[1], network.biases[1]
    if network.arithmetic.precision == "fp32" or not torch.compiler.is_compiling():
        return torch.addmm(bias, coordinates, weight.T)
    # While compiled code runs, all of its matrix products may use tensor cores (``compiled.py``): so this is none.
    phase = bias.expand(len(coordinates), -1)
    for axis in range(coordinates.shape[1]):
        phase = phase + coordinates[:, axis, None] * weight[:, axis]
    return phase


def stem_back(
    network: Folded,
    coordinates: Float[Tensor, "point coord"],
    cosine: Float[Tensor, "1 point hidden"],
    adjoint: Float[Tensor, "1 point hidden"],
    theta: ThetaGradient,
) -> None:
    """Add the gradient by the first layer's weight and bias."""
    through = adjoint * cosine
    theta.add_weight(1, through, coordinates[None])
    theta.add_bias(1, through)


def affine(
    network: Folded, k: int, hidden: Float[Tensor, "#scan point in"], shift: Float[Tensor, "scan hidden"]
) -> Float[Tensor, "scan point hidden"]:
    """W̃_k h + shift."""
    weight, by, parts = network.weights[k].T, network.arithmetic, network.onward_parts.get(k)
    if len(shift) == 1:
        return product_plus_row(shift[0], hidden[0], weight, by, parts)[None]
    phase = product(hidden.flatten(0, 1), weight, by, parts).view(*hidden.shape[:2], -1)
    return phase.add_(shift[:, None]) if len(hidden) == len(shift) else phase + shift[:, None]


def onward(
    network: Folded, k: int, hidden: Float[Tensor, "#scan point in"], wave: Float[Tensor, "scan point hidden"]
) -> Float[Tensor, "scan point hidden"]:
    """[h +] wave, in the memory of ``wave``."""
    return wave.add_(hidden) if network.spec.residual and k > 1 else wave


def output(network: Folded, hidden: Float[Tensor, "scan point hidden"]) -> Float[Tensor, "scan point channel"]:
    """W_K h + b_K + 0.5."""
    last, by = network.spec.layers, network.arithmetic
    weight, parts = network.weights[last].T, network.onward_parts.get(last)
    values = product_plus_row(network.biases[last], hidden.flatten(0, 1), weight, by, parts)
    return values.view(*hidden.shape[:2], -1)


def output_motion(network: Folded, motion: Float[Tensor, "scan point hidden"]) -> Float[Tensor, "scan point channel"]:
    """W_K ḣ."""
    last, by = network.spec.layers, network.arithmetic
    weight, parts = network.weights[last].T, network.onward_parts.get(last)
    return product(motion.flatten(0, 1), weight, by, parts).view(*motion.shape[:2], -1)


def output_back(network: Folded, adjoint: Float[Tensor, "scan point channel"]) -> Float[Tensor, "scan point hidden"]:
    """W_Kᵀ(adjoint of the values)."""
    last, by = network.spec.layers, network.arithmetic
    weight, parts = network.weights[last], network.back_parts.get(last)
    return product(adjoint.flatten(0, 1), weight, by, parts).view(*adjoint.shape[:2], -1)


def back(
    network: Folded, k: int, through: Float[Tensor, "scan point hidden"], adjoint: Float[Tensor, "scan point hidden"]
) -> Float[Tensor, "scan point in"]:
    """The adjoint of layer k's input, from that of its phase (``through``) and that of its output: W̃ᵀδ [+ a]."""
    flat, weight, by, parts = through.flatten(0, 1), network.weights[k], network.arithmetic, network.back_parts.get(k)
    if network.spec.residual and k > 1:
        return product_plus(adjoint.flatten(0, 1), flat, weight, by, parts).view_as(adjoint)
    return product(flat, weight, by, parts).view(*through.shape[:2], -1)


def share(adjoint: Float[Tensor, "scan point hidden"], scans: int) -> Float[Tensor, "shared point hidden"]:
    """Summed over scans where ``scans`` = 1 says that they share what the adjoint belongs to."""
    return adjoint.sum(0, keepdim=True) if scans < len(adjoint) else adjoint
