"""The curvature of a scan's loss in its latent: the Gauss-Newton matrix, computed by hand (docs/method.md, 7).

A value of the field depends on the shifts of its own point's activations alone, so one backward sweep that is not
summed over points gives every row of the Jacobian ∂y/∂s at once: at the cost of the gradient, whatever the latent size.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.latents.curvature_forms import Curvature, Dual, Form, Primal, form_of
from medfuncta_dist.meta.context import context_size
from medfuncta_dist.meta.machine.products import product
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.point_weights import relative, times
from medfuncta_dist.meta.sweeps.folded import Folded
from medfuncta_dist.meta.sweeps.layers import back, onward, output, stem, waves

Jacobian = list[list[Tensor]]
"""∂y/∂s by channel and modulated layer: (scan, point, hidden) each."""

GOLDEN = 0.6180339887498949
"""The fraction whose multiples, modulo 1, are spread most evenly."""


def spread_points(points: int, ratio: float, step: int) -> Int[Tensor, " chosen"]:
    """Indices of a share of the points, evenly spaced, with another offset at each step.

    Evenly, because a random third of 784 points leaves gaps in which a step goes wrong: after 3 steps of the small
    network of docs/method.md, 7, it is 1.2 dB below an even third, and that as good as all points.
    """
    chosen = context_size(points, ratio)
    return ((torch.arange(chosen, dtype=torch.float64) + (step * GOLDEN) % 1) * (points / chosen)).long()


@dataclass(frozen=True)
class Sample:
    """Sorted indices of some points: on the host, to see which of them a block has, and where the block is computed.

    Both are made before a fit begins: one that is recorded as a CUDA graph cannot copy from the host.
    """

    on_host: list[int]
    there: Int[Tensor, " chosen"]

    @classmethod
    def of(cls, indices: Int[Tensor, " chosen"], device: torch.device) -> Sample:
        """From indices on the CPU."""
        return cls(indices.tolist(), indices.to(device))

    def __len__(self) -> int:
        return len(self.on_host)

    def inside(self, points: slice) -> tuple[int, Int[Tensor, " inside"] | None]:
        """How many points come before a block, and those within, counted from its first; None for all of its points."""
        first, end = (bisect_left(self.on_host, bound) for bound in (points.start, points.stop))
        return first, None if end - first == points.stop - points.start else self.there[first:end] - points.start


def jacobian_sweep(
    network: Folded, coordinates: Float[Tensor, "point coord"], shifts: Float[Tensor, "scan layer hidden"]
) -> tuple[Jacobian, Float[Tensor, "scan point channel"]]:
    """∂y/∂s of every value of a block, and the values."""
    spec = network.spec
    cosines: dict[int, Tensor] = {}
    hidden, _ = stem(network, coordinates)
    for layer, k in enumerate(spec.modulated_layers):
        sine, cosines[k] = waves(network, k, hidden, shifts[:, layer])
        hidden = onward(network, k, hidden, sine)
    jacobian: Jacobian = []
    for row in network.weights[spec.layers]:
        by_layer: list[Tensor] = []
        adjoint = row.expand_as(hidden).contiguous()
        for layer, k in reversed(list(enumerate(spec.modulated_layers))):
            by_layer.append(cosines[k] * adjoint)
            if layer > 0:
                adjoint = back(network, k, by_layer[-1], adjoint)
        jacobian.append(by_layer[::-1])
    return jacobian, output(network, hidden)


def rows(jacobian: Jacobian, chosen: Tensor | None = None) -> Float[Tensor, "scan value shift"]:
    """The Jacobian as one matrix per scan, of all points or of the ``chosen``: channel by channel."""
    scans, points, hidden = jacobian[0][0].shape
    count = points if chosen is None else len(chosen)
    whole = jacobian[0][0].new_empty(scans, len(jacobian), count, len(jacobian[0]), hidden)
    for channel, by_layer in enumerate(jacobian):
        for layer, part in enumerate(by_layer):
            whole[:, channel, :, layer] = part if chosen is None else part[:, chosen]
    return whole.flatten(3, 4).flatten(1, 2)


def curved_gradient(
    objective: Objective, sample: Sample, form: Form | None = None
) -> tuple[Float[Tensor, "batch layer hidden"], Float[Tensor, " batch"], Curvature]:
    """``shift_gradient`` and the curvature by one sweep: the loss's gradient is Jᵀ times the residue.

    The curvature is 2 JᵀJ over the number of values, the Hessian of each scan's mean squared error without its second
    derivatives; it is that of the points in ``sample``, with their weights. ``form``: default, what the shapes say.
    """
    network, weight, shifts = objective.network, 1 / objective.values_per_scan, objective.shifts
    gradient, errors = torch.zeros_like(shifts), objective.zero_errors()
    values_seen = len(sample) * network.spec.channels
    form = form or form_of(values_seen, network.spec.latent)
    growing = (_Rows if form is Dual else _Squares)(objective, values_seen)
    roots = None if objective.weights is None else relative(objective.weights[:, sample.there]).sqrt()
    for block in objective.blocks():
        jacobian, values = block.run(jacobian_sweep, shifts[block.scans])
        error = values - block.targets
        errors[block.scans] += times(error.square(), block.weights).sum((1, 2))
        _add_gradient(gradient[block.scans], jacobian, 2 * weight * times(error, block.weights))
        before, inside = sample.inside(block.points)
        by_shifts = rows(jacobian, inside)
        del jacobian  # the products need its memory
        by_latents = _by_latents(network, by_shifts)
        if roots is not None:
            _times_roots(by_latents, roots[block.scans, before:], network.spec.channels)
        growing.add(block.scans, before * network.spec.channels, by_latents)
    return gradient, errors * weight, growing.done()


def _add_gradient(
    total: Float[Tensor, "scan layer hidden"], jacobian: Jacobian, residue: Float[Tensor, "scan point channel"]
) -> None:
    """total += Jᵀ residue."""
    for channel, by_layer in enumerate(jacobian):
        for layer, part in enumerate(by_layer):
            total[:, layer] += torch.bmm(residue[:, None, :, channel], part)[:, 0]


def _by_latents(network: Folded, by_shifts: Float[Tensor, "scan value shift"]) -> Float[Tensor, "scan value latent"]:
    """∂y/∂φ = ∂y/∂s M̃."""
    flat = product(by_shifts.flatten(0, 1), network.maps, network.arithmetic)
    return flat.view(*by_shifts.shape[:2], network.spec.latent)  # a block may have no point of the sample


def _times_roots(
    by_latents: Float[Tensor, "scan value latent"], roots: Float[Tensor, "scan rest"], channels: int
) -> None:
    """J's rows, channel by channel, times the roots of their points' weights, in place: H = JᵀWJ is then RᵀR."""
    points = by_latents.shape[1] // channels
    by_latents.mul_(roots[:, :points].repeat(1, channels)[..., None])


class _Squares:
    """The primal form, block by block: a sum of JᵀJ."""

    def __init__(self, objective: Objective, values: int) -> None:
        latent, self._values = objective.network.spec.latent, values
        self._total = objective.latents.new_zeros(len(objective.latents), latent, latent)

    def add(self, scans: slice, before: int, jacobian: Float[Tensor, "scan value latent"]) -> None:
        self._total[scans].baddbmm_(jacobian.mT, jacobian)

    def done(self) -> Primal:
        return Primal(self._total.mul_(2 / self._values))


class _Rows:
    """The dual form, block by block: all rows of J, each in its place."""

    def __init__(self, objective: Objective, values: int) -> None:
        self._arithmetic = objective.network.arithmetic
        latent = objective.network.spec.latent
        self._rows = objective.latents.new_empty(len(objective.latents), values, latent)

    def add(self, scans: slice, before: int, jacobian: Float[Tensor, "scan value latent"]) -> None:
        place = self._rows[scans, before : before + jacobian.shape[1]]
        torch.mul(jacobian, math.sqrt(2 / self._rows.shape[1]), out=place)

    def done(self) -> Dual:
        return Dual(self._rows, self._squares())

    def _squares(self) -> Tensor:
        if self._arithmetic.products != "onednn":
            return torch.bmm(self._rows, self._rows.mT)
        squares = self._rows.new_empty(*self._rows.shape[:2], self._rows.shape[1])
        for square, of_scan in zip(squares, self._rows, strict=True):  # faster than torch's product of all
            square.copy_(product(of_scan, of_scan.T, self._arithmetic))
        return squares
