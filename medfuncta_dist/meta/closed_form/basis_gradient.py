"""The exact gradient of the basis field's outer loss: through the mean, the basis, and the solve that gives latents.

With A = G + λ tr(G)/F I and R_s = Σ_C B_iᵀ(y_i − μ_i), sums over the context set C, φ_s = A⁻¹R_s. The outer loss is on
all points. Its derivative by φ_s is p_s = Σ_i B_iᵀ r_i with r = 2(ŷ − y)/ND, and with q_s = A⁻¹ p_s

    dJ/dR_s = q_s,    dJ/dG = Γ = −½ Σ_s (q_s φ_sᵀ + φ_s q_sᵀ) − (λ/F) Σ_s ⟨q_s, φ_s⟩ I

    dJ/dB_i = Σ_s r_i φ_sᵀ + [i ∈ C] (2 B_i Γ + Σ_s (y_i − μ_i) q_sᵀ),    dJ/dμ_i = Σ_s r_i − [i ∈ C] Σ_s B_i q_s

(docs/method.md, 8). Autograd takes it from there through the sine layers, a block of points at a time: nothing that is
kept grows with the number of points or scans but the data; G and its factor have F² numbers.

Where points have weights, every sum over points has them, and G, A and Γ are those of a group of scans whose points
count alike (``weight_groups.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.closed_form.feature_grid import FeatureGrid
from medfuncta_dist.meta.closed_form.normal_equations import Factor, Sums
from medfuncta_dist.meta.closed_form.weight_groups import Group, groups_of, within
from medfuncta_dist.meta.learner import Ranks
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.products import product

WITHOUT_FACTOR = "lower train.rate, or raise meta.ridge; checkpoints before this step are kept"
KEPT_BYTES = 2**28
"""Of features that are kept from one pass over the points to the next, instead of being computed again: same bits."""


@dataclass(frozen=True)
class Block:
    """Some points of a grid: the field's functions there, and the scans. Rows of several channels follow each other."""

    points: slice
    rows: Float[Tensor, "value feature"]
    means: Float[Tensor, " value"]
    targets: Float[Tensor, "scan value"]
    inside: Bool[Tensor, " value"] | None
    """Which values belong to the context set; None for all of them."""
    weights: Float[Tensor, "scan value"] | None = None
    """How much each value counts; None for all alike."""

    @property
    def residues(self) -> Float[Tensor, "scan value"]:
        """What the mean leaves of each scan."""
        return self.targets - self.means

    def seen_by(self, group: Group) -> Seen:
        """What the latents of a group of scans are fitted on: its values of the context set that count."""
        if self.weights is None:
            return self._seen(self.inside, self.targets)
        counts = self.weights[group.scans][0]
        inside = counts > 0 if self.inside is None else self.inside & (counts > 0)
        seen, roots = self._seen(inside, self.targets[group.scans]), counts[inside].sqrt()
        return replace(seen, rows=seen.rows * roots[:, None], residues=seen.residues * roots, roots=roots)

    def _seen(self, inside: Tensor | None, targets: Tensor) -> Seen:
        if inside is None:
            return Seen(self.rows, targets - self.means, None)
        return Seen(self.rows[inside], targets[:, inside] - self.means[inside], inside)


@dataclass(frozen=True)
class Seen:
    """Values that latents are fitted on: the functions there, and what the mean leaves of each scan; both times the
    roots of the values' weights, where they have some."""

    rows: Float[Tensor, "seen feature"]
    residues: Float[Tensor, "scan seen"]
    inside: Bool[Tensor, " value"] | None
    """Which values of the block; None for all."""
    roots: Float[Tensor, " seen"] | None = None


@dataclass(frozen=True)
class LinearFit:
    """The scans that a basis field on a grid should reconstruct."""

    grid: FeatureGrid
    targets: Float[Tensor, "scan point channel"]
    arithmetic: Arithmetic
    context: Int[Tensor, " context"] | None = None
    """Sorted indices of the points that latents are fitted on; None for all."""
    weights: Float[Tensor, "scan point"] | None = None
    """How much each point counts, over the mean of its scan (``point_weights.relative``); None for all alike."""

    @cached_property
    def groups(self) -> list[Group]:
        """The scans whose points count alike, together."""
        return groups_of(self.weights, len(self.targets))

    @property
    def ranks(self) -> Ranks:
        """Whoever computes this together."""
        return self.grid.ranks

    def blocks(self) -> Iterator[Block]:
        """This rank's blocks of points, the field's functions computed anew without a graph."""
        for part in self.grid.parts():
            yield Block(
                part.points,
                part.rows,
                part.means,
                self.targets[:, part.points].flatten(1),
                self._inside(part.points, part.rows.device),
                self._weights(part.points),
            )

    def kept_blocks(self) -> list[Block] | None:
        """All blocks at once, where they are small enough to be kept."""
        numbers = self.grid.values // self.ranks.size * self.grid.spec.features
        return list(self.blocks()) if numbers * self.targets.element_size() <= KEPT_BYTES else None

    def _weights(self, points: slice) -> Tensor | None:
        channels = self.grid.spec.channels
        return None if self.weights is None else self.weights[:, points].repeat_interleave(channels, 1)

    def _inside(self, points: slice, device: torch.device) -> Tensor | None:
        count = len(self.grid.coordinates)
        if self.context is None or len(self.context) == count:
            return None
        inside = torch.zeros(count, dtype=torch.bool, device=device)
        inside[self.context.to(device)] = True
        return inside[points].repeat_interleave(self.grid.spec.channels)


@dataclass(frozen=True)
class BasisGradient:
    """Per-scan outer losses, the gradient of their sum by θ (by name; of several ranks, this one's part of that), and
    the solve's factor: of several, one with the largest ridge; None where no scan has any weight."""

    losses: Float[Tensor, " scan"]
    params: Params
    factor: Factor | None


@torch.no_grad()
def solve(
    fit: LinearFit, ridge: float, blocks: list[Block] | None = None
) -> tuple[list[Factor | None], Float[Tensor, "scan feature"]]:
    """The latents that fit the context set best, and each group's factorised Gram matrix.

    A group without any weight in the context has no factor, and the latent 0.
    """
    device, features = fit.targets.device, fit.grid.spec.features
    sums = [Sums.zeros(group.count, features, device) for group in fit.groups]
    for block in blocks if blocks is not None else fit.blocks():
        for group, own in zip(fit.groups, sums, strict=True):
            seen = block.seen_by(group)
            own.add(seen.rows, seen.residues, fit.arithmetic)
    factors, latents = [], []
    while sums:  # a sum is let go as soon as it is factorised: both have F² numbers
        own = sums.pop(0)
        factors.append(_factor(fit.ranks.sum(own.gram), ridge, fit.weights is not None))
        latents.append(_solved(factors[-1], fit.ranks.sum(own.right)))
    return factors, latents[0] if len(latents) == 1 else torch.cat(latents)


def _factor(gram: Tensor, ridge: float, weighted: bool) -> Factor | None:
    return None if weighted and not gram.any() else Factor.of(gram, ridge, WITHOUT_FACTOR)


def _solved(factor: Factor | None, right: Tensor) -> Tensor:
    return torch.zeros_like(right) if factor is None else factor.solve(right)


@torch.no_grad()
def solved_losses(fit: LinearFit, ridge: float) -> Float[Tensor, " scan"]:
    """Each scan's mean squared error over all points, of the latent that fits its context set best."""
    if fit.weights is None:
        return _solved_losses(fit, ridge)
    order, parts = within(fit.weights, fit.grid.spec.features)
    losses = [_solved_losses(_of_scans(fit, order[part]), ridge) for part in parts]
    return torch.cat(losses)[order.argsort()]


def _solved_losses(fit: LinearFit, ridge: float) -> Tensor:
    blocks = fit.kept_blocks()
    latents = solve(fit, ridge, blocks)[1].to(fit.targets.dtype)
    return _outer(fit, blocks, latents)[0]


@torch.no_grad()
def basis_gradient(fit: LinearFit, ridge: float) -> BasisGradient:
    """Outer losses, and the exact gradient of their sum."""
    if fit.weights is None:
        return _basis_gradient(fit, ridge)
    order, parts = within(fit.weights, fit.grid.spec.features)
    found = [_basis_gradient(_of_scans(fit, order[part]), ridge) for part in parts]
    losses = torch.cat([one.losses for one in found])[order.argsort()]
    params = {name: torch.stack([one.params[name] for one in found]).sum(0) for name in fit.grid.spec.shapes()}
    return BasisGradient(losses, params, _most_raised([one.factor for one in found]))


@torch.no_grad()
def filled(fit: LinearFit, ridge: float) -> Float[Tensor, "scan point channel"]:
    """The targets where they count; at points of weight 0 what the latents give that fit the others best."""
    assert fit.weights is not None
    order, parts = within(fit.weights, fit.grid.spec.features)
    values = torch.empty_like(fit.targets)
    for scans in (order[part] for part in parts):
        own = _of_scans(fit, scans)
        blocks = own.kept_blocks()
        latents = solve(own, ridge, blocks)[1].to(fit.targets.dtype)
        for block in blocks if blocks is not None else own.blocks():
            found = _errors(own, block, latents) + block.targets
            values[scans, block.points] = found.view(len(scans), -1, fit.grid.spec.channels)
    return torch.where(fit.weights[..., None] > 0, fit.targets, values)


def _of_scans(fit: LinearFit, scans: Tensor) -> LinearFit:
    assert fit.weights is not None
    return replace(fit, targets=fit.targets[scans], weights=fit.weights[scans])


def _most_raised(factors: Sequence[Factor | None]) -> Factor | None:
    return max((one for one in factors if one is not None), key=lambda factor: factor.ridge, default=None)


def _basis_gradient(fit: LinearFit, ridge: float) -> BasisGradient:
    blocks, dtype = fit.kept_blocks(), fit.targets.dtype
    factors, exact = solve(fit, ridge, blocks)
    latents = exact.to(dtype)
    losses, by_latents = _outer(fit, blocks, latents)
    pulls, by_grams = [], []
    for group, factor in zip(fit.groups, factors, strict=True):
        pulls.append(_solved(factor, by_latents[group.scans].double()))  # q
        raised = 0.0 if factor is None else factor.ridge
        by_grams.append(_by_gram(exact[group.scans], pulls[-1], raised).to(dtype))
    back = _Back(latents, [pull.to(dtype) for pull in pulls], by_grams)
    total = {name: torch.zeros_like(fit.grid.params[name]) for name in fit.grid.spec.shapes()}
    for block in blocks if blocks is not None else fit.blocks():
        found = fit.grid.pull_back(block.points, *_adjoints(fit, block, back))
        for name, part in zip(total, found, strict=True):
            total[name] += part
    return BasisGradient(losses, total, _most_raised(factors))


@dataclass(frozen=True)
class _Back:
    """What the way back needs at every point: the latents, and of each group the pulls q and Γ."""

    latents: Float[Tensor, "scan feature"]
    pulls: list[Tensor]
    by_grams: list[Tensor]


def _outer(
    fit: LinearFit, blocks: list[Block] | None, latents: Tensor
) -> tuple[Float[Tensor, " scan"], Float[Tensor, "scan feature"]]:
    """Losses on all points, and their derivatives p by the latents."""
    losses, by_latents = fit.targets.new_zeros(len(latents)), torch.zeros_like(latents)
    for block in blocks if blocks is not None else fit.blocks():
        errors = _errors(fit, block, latents)
        losses += _counted(errors.square(), block).sum(1)
        by_latents += product(_counted(errors, block), block.rows, fit.arithmetic)
    losses, by_latents = fit.ranks.sum(losses), fit.ranks.sum(by_latents)
    return losses / fit.grid.values, by_latents * (2 / fit.grid.values)


def _errors(fit: LinearFit, block: Block, latents: Tensor) -> Float[Tensor, "scan value"]:
    """ŷ − y."""
    return product(latents, block.rows.T, fit.arithmetic) - block.residues


def _counted(values: Float[Tensor, "scan value"], block: Block) -> Float[Tensor, "scan value"]:
    """Times the values' weights, where they have some."""
    return values if block.weights is None else values * block.weights


def _by_gram(latents: Tensor, pulls: Tensor, ridge: float) -> Float[Tensor, "feature feature"]:
    """Γ."""
    half = pulls.T @ latents
    by_gram = -(half + half.T) / 2
    by_gram.diagonal().sub_(ridge / len(half) * (pulls * latents).sum())
    return by_gram


def _adjoints(
    fit: LinearFit, block: Block, back: _Back
) -> tuple[Float[Tensor, "value feature"], Float[Tensor, " value"]]:
    """dJ/dB and dJ/dμ of a block."""
    by = fit.arithmetic
    residue = _counted(_errors(fit, block, back.latents) * (2 / fit.grid.values), block)
    by_rows, by_means = product(residue.T, back.latents, by), residue.sum(0)
    for group, pulls, by_gram in zip(fit.groups, back.pulls, back.by_grams, strict=True):
        seen = block.seen_by(group)
        by_rows_seen = 2 * product(seen.rows, by_gram, by) + product(seen.residues.T, pulls, by)
        by_means_seen = seen.rows @ pulls.sum(0)
        if seen.roots is not None:  # one is in the rows and residues already
            by_rows_seen, by_means_seen = by_rows_seen * seen.roots[:, None], by_means_seen * seen.roots
        if seen.inside is None:
            by_rows.add_(by_rows_seen)
            by_means.sub_(by_means_seen)
        else:
            by_rows[seen.inside] += by_rows_seen
            by_means[seen.inside] -= by_means_seen
    return by_rows, by_means
