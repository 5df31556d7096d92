"""θ arranged for hand-written sweeps: ω folded into the weights, all modulation maps stacked into one.

With W̃ = ωW, b̃ = ωb, M̃ = ωM, c̃ = ωc a layer is h' = [h +] sin(W̃h + b̃ + c̃ + M̃φ): no sweep needs to know ω, its
derivative is cos alone, and a gradient by W is ω times the one by W̃. See docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.params import OUTPUT_OFFSET, Params
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.products import add_product, parts_for


@dataclass(frozen=True)
class Folded:
    """θ with ω folded in. ``weights[k]`` is W̃_k; ``biases`` has the layers that no latent shifts: W_K's and the stem's.

    A *shift* is all that is added to W̃h in the modulated layers: M̃φ + c̃ + b̃, stacked over these layers.
    """

    spec: SirenSpec
    weights: dict[int, Tensor]
    biases: dict[int, Tensor]
    maps: Float[Tensor, "shift latent"]
    offsets: Float[Tensor, " shift"]
    arithmetic: Arithmetic
    onward_parts: dict[int, Tensor] = field(default_factory=dict)
    """Of W̃ᵀ, by layer, where the arithmetic splits matrices (``products.parts_for``); ``back_parts``: of W̃."""
    back_parts: dict[int, Tensor] = field(default_factory=dict)

    def shifts(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch layer hidden"]:
        """Shift of every modulated layer: M̃φ + c̃ + b̃."""
        return self._by_layer(torch.addmm(self.offsets, latents, self.maps.T))

    def tangents(self, directions: Float[Tensor, "batch rated latent"]) -> Float[Tensor, "batch layer hidden"]:
        """How the shifts move when φ moves along the directions, one for all layers or one each: M̃_k v_k.

        (*rated*: 1, or the number of modulated layers.)
        """
        if directions.shape[1] == 1:
            return self._by_layer(directions[:, 0] @ self.maps.T)
        return torch.einsum("blp,lhp->blh", directions, self._maps_by_layer)

    def pull_back(self, adjoints: Float[Tensor, "batch layer hidden"]) -> Float[Tensor, "batch latent"]:
        """A gradient by shifts as a gradient by latents: M̃ᵀa."""
        return adjoints.flatten(1) @ self.maps

    def pull_back_apart(
        self, adjoints: Float[Tensor, "batch layer hidden"], layers: int
    ) -> Float[Tensor, "batch rated latent"]:
        """The same with every layer's part M̃_kᵀa_k kept apart; ``layers`` = 1 asks for the sum of them."""
        if layers == 1:
            return self.pull_back(adjoints)[:, None]
        return torch.einsum("blh,lhp->blp", adjoints, self._maps_by_layer)

    @property
    def _maps_by_layer(self) -> Float[Tensor, "layer hidden latent"]:
        return self.maps.view(-1, self.spec.hidden, self.spec.latent)

    def _by_layer(self, stacked: Tensor) -> Tensor:
        return stacked.view(len(stacked), -1, self.spec.hidden)


def fold(spec: SirenSpec, params: Params, arithmetic: Arithmetic | None = None) -> Folded:
    """Arrange θ. The result is detached: gradients by θ come from ``ThetaGradient.unfold``.

    ``arithmetic``: default ``Arithmetic.best``. MedfunctaError where this process cannot compute so.
    """
    device = params["layer.1.weight"].device
    settled = Arithmetic.best(device) if arithmetic is None else arithmetic.require(device)
    frozen = {name: tensor.detach() for name, tensor in params.items()}

    def scaled(k: int, name: str) -> Tensor:
        return frozen[name.format(k)] * spec.omega(k)

    def stacked(part: Callable[[int], Tensor]) -> Tensor:
        return torch.cat([part(k) for k in spec.modulated_layers])

    weights = {k: scaled(k, "layer.{}.weight") for k in spec.sine_layers}
    weights[spec.layers] = frozen[f"layer.{spec.layers}.weight"]
    biases = {k: scaled(k, "layer.{}.bias") for k in spec.sine_layers if k not in spec.modulated_layers}
    biases[spec.layers] = frozen[f"layer.{spec.layers}.bias"] + OUTPUT_OFFSET
    maps = stacked(lambda k: scaled(k, "modulation.{}.weight"))
    offsets = stacked(lambda k: scaled(k, "modulation.{}.bias") + scaled(k, "layer.{}.bias"))
    return with_parts(Folded(spec, weights, biases, maps, offsets, settled))


def with_parts(network: Folded) -> Folded:
    """The network with each weight split once, for all sweeps of a step, if its arithmetic splits matrices."""

    def parts(right: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
        found = {k: parts_for(right(weight), network.arithmetic) for k, weight in network.weights.items()}
        return {k: split for k, split in found.items() if split is not None}

    return replace(network, onward_parts=parts(lambda weight: weight.T), back_parts=parts(lambda weight: weight))


class ThetaGradient:
    """A sum of gradients by folded θ, and the way back to gradients by θ."""

    def __init__(self, network: Folded) -> None:
        self.spec, self._arithmetic = network.spec, network.arithmetic
        self.weights = {k: torch.zeros_like(weight) for k, weight in network.weights.items()}
        self.biases = {k: torch.zeros_like(bias) for k, bias in network.biases.items()}
        self.maps = torch.zeros_like(network.maps)
        self.offsets = torch.zeros_like(network.offsets)

    def add_weight(
        self, k: int, adjoint: Float[Tensor, "scan point out"], incoming: Float[Tensor, "scan point in"]
    ) -> None:
        """Σ over scans and points of (adjoint of W̃_k h) hᵀ."""
        add_product(self.weights[k], adjoint.flatten(0, 1).T, incoming.flatten(0, 1), self._arithmetic)

    def add_bias(self, k: int, adjoint: Float[Tensor, "scan point out"]) -> None:
        """Σ over scans and points, for a layer that no latent shifts."""
        self.biases[k] += adjoint.sum((0, 1))

    def add_shifts(self, adjoints: Float[Tensor, "batch layer hidden"], latents: Float[Tensor, "batch latent"]) -> None:
        """What M̃φ + c̃ + b̃ passes on to M̃, and to c̃ and b̃ alike."""
        self.maps.addmm_(adjoints.flatten(1).T, latents)
        self.offsets += adjoints.flatten(1).sum(0)

    def add_tangents(
        self, adjoints: Float[Tensor, "batch layer hidden"], directions: Float[Tensor, "batch rated latent"]
    ) -> None:
        """What M̃_k v_k passes on to M̃."""
        if directions.shape[1] == 1:
            self.maps.addmm_(adjoints.flatten(1).T, directions[:, 0])
        else:
            by_layer = torch.bmm(adjoints.permute(1, 2, 0), directions.transpose(0, 1))
            self.maps += by_layer.flatten(0, 1)

    def unfold(self) -> Params:
        """Gradients by θ, named as θ: those by W̃, b̃, M̃, c̃ times ω. Empties this sum."""
        spec, result = self.spec, dict[str, Tensor]()
        for k, weight in self.weights.items():
            result[f"layer.{k}.weight"] = weight.mul_(spec.omega(k) if k < spec.layers else 1.0)
        for k, bias in self.biases.items():
            result[f"layer.{k}.bias"] = bias.mul_(spec.omega(k) if k < spec.layers else 1.0)
        maps = torch.split(self.maps, spec.hidden)
        for k, map_, offset in zip(spec.modulated_layers, maps, torch.split(self.offsets, spec.hidden), strict=True):
            result[f"modulation.{k}.weight"] = map_.mul_(spec.omega(k))
            result[f"modulation.{k}.bias"] = offset.mul_(spec.omega(k))
            result[f"layer.{k}.bias"] = offset.clone()
        return result
