"""One layer of the folded network, forward and back: the steps that every hand-written sweep is made of.

Tensors are (scan, point, hidden). Below the first modulated layer all scans are alike, and a scan axis of 1 stands for
all of them; the first shift broadcasts it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.machine.products import (
    fused,
    gpu_kernels,
    passes,
    product,
    product_plus,
    product_plus_row,
    tiled,
)
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


def waves(
    network: Folded, k: int, hidden: Float[Tensor, "#scan point in"], shift: Float[Tensor, "scan hidden"]
) -> tuple[Float[Tensor, "scan point hidden"], Float[Tensor, "scan point hidden"]]:
    """sin z and cos z of the phase z = W̃_k h + shift."""
    if _on_chip(network, k, hidden, shift):
        kernels, flat = gpu_kernels(), hidden.flatten(0, 1)
        sine, cosine = kernels.product(flat, network.onward_parts[k], passes(network.arithmetic), shift, waves=2)
        return sine.view(*hidden.shape[:2], -1), cosine.view(*hidden.shape[:2], -1)
    phase = affine(network, k, hidden, shift)
    return phase.sin(), phase.cos_()


def wave(
    network: Folded, k: int, hidden: Float[Tensor, "#scan point in"], shift: Float[Tensor, "scan hidden"]
) -> Float[Tensor, "scan point hidden"]:
    """sin z alone."""
    if _on_chip(network, k, hidden, shift):
        flat, by = hidden.flatten(0, 1), network.arithmetic
        sine: Tensor
        sine, _ = gpu_kernels().product(flat, network.onward_parts[k], passes(by), shift, waves=1)
        return sine.view(*hidden.shape[:2], -1)
    return affine(network, k, hidden, shift).sin_()


def moving_waves(
    network: Folded,
    k: int,
    hidden: Float[Tensor, "#scan point in"],
    motion: Float[Tensor, "scan point in"] | None,
    shift: Float[Tensor, "scan hidden"],
    tangent: Float[Tensor, "scan hidden"],
) -> list[Float[Tensor, "scan point hidden"]]:
    """sin z, cos z, ż sin z and ż cos z, where ż = W̃_k ḣ + tangent is how z moves.

    Without motion, ż is the tangent alone, the same at every point.
    """
    if motion is not None and _on_chip(network, k, hidden, shift):
        flat, moving, parts = hidden.flatten(0, 1), motion.flatten(0, 1), network.onward_parts[k]
        found = gpu_kernels().moving_waves(flat, moving, parts, passes(network.arithmetic), shift, tangent)
        return [one.view(*hidden.shape[:2], -1) for one in found]
    phase = affine(network, k, hidden, shift)
    speed = tangent[:, None] if motion is None else affine(network, k, motion, tangent)
    cosine, sine = phase.cos(), phase.sin_()
    return [sine, cosine, sine * speed, cosine * speed]


def damped(
    network: Folded, cosine: Float[Tensor, "scan point hidden"], adjoint: Float[Tensor, "scan point hidden"]
) -> tuple[Float[Tensor, "scan point hidden"], Float[Tensor, "scan hidden"]]:
    """The adjoint of a phase, cos z · (that of its sine), in the memory of ``cosine``; and its sums over points."""
    if fused(cosine, network.arithmetic):
        through, sums = gpu_kernels().damped(cosine, adjoint)
        return through, sums
    through = cosine.mul_(adjoint)
    return through, through.sum(1)


def damped_motion(
    network: Folded,
    cosine: Float[Tensor, "scan point hidden"],
    curvature: Float[Tensor, "scan point hidden"],
    adjoint: Float[Tensor, "scan point hidden"],
    motion_adjoint: Float[Tensor, "scan point hidden"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoints of a phase z and of its motion ż, and the sums of both over points.

    They are cos z · a − ż sin z · ȧ and cos z · ȧ, with ``curvature`` = ż sin z. Overwrites cosine and curvature.
    """
    if fused(cosine, network.arithmetic):
        found: tuple[Tensor, Tensor, Tensor, Tensor] = gpu_kernels().damped_motion(
            cosine, curvature, adjoint, motion_adjoint
        )
        return found
    through = cosine * adjoint
    through.addcmul_(curvature, motion_adjoint, value=-1)
    motion_through = cosine.mul_(motion_adjoint)
    return through, motion_through, through.sum(1), motion_through.sum(1)


def _on_chip(network: Folded, k: int, hidden: Tensor, shift: Tensor) -> bool:
    """Whether one kernel does all of a layer: not where all scans share what is below it."""
    return len(hidden) == len(shift) and tiled(hidden, network.weights[k], network.arithmetic)


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
