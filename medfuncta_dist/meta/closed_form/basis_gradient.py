"""The exact gradient of the basis field's outer loss: through the mean, the basis, and the solve that gives latents.

With A = G + λ tr(G)/F I and R_s = Σ_C B_iᵀ(y_i − μ_i), sums over the context set C, φ_s = A⁻¹R_s. The outer loss is on
all points. Its derivative by φ_s is p_s = Σ_i B_iᵀ r_i with r = 2(ŷ − y)/ND, and with q_s = A⁻¹ p_s

    dJ/dR_s = q_s,    dJ/dG = Γ = −½ Σ_s (q_s φ_sᵀ + φ_s q_sᵀ) − (λ/F) Σ_s ⟨q_s, φ_s⟩ I

    dJ/dB_i = Σ_s r_i φ_sᵀ + [i ∈ C] (2 B_i Γ + Σ_s (y_i − μ_i) q_sᵀ),    dJ/dμ_i = Σ_s r_i − [i ∈ C] Σ_s B_i q_s

(docs/method.md, 8). Autograd takes it from there through the sine layers, a block of points at a time: nothing that is
kept grows with the number of points or scans but the data; G and its factor have F² numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.closed_form.feature_grid import FeatureGrid
from medfuncta_dist.meta.closed_form.normal_equations import Factor, Sums
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

    @property
    def residues(self) -> Float[Tensor, "scan value"]:
        """What the mean leaves of each scan."""
        return self.targets - self.means

    def in_context(self) -> Block:
        """The block's part of the context set."""
        if self.inside is None:
            return self
        rows, means, targets = self.rows[self.inside], self.means[self.inside], self.targets[:, self.inside]
        return replace(self, rows=rows, means=means, targets=targets, inside=None)


@dataclass(frozen=True)
class LinearFit:
    """The scans that a basis field on a grid should reconstruct."""

    grid: FeatureGrid
    targets: Float[Tensor, "scan point channel"]
    arithmetic: Arithmetic
    context: Int[Tensor, " context"] | None = None
    """Sorted indices of the points that latents are fitted on; None for all."""

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
            )

    def kept_blocks(self) -> list[Block] | None:
        """All blocks at once, where they are small enough to be kept."""
        numbers = self.grid.values // self.ranks.size * self.grid.spec.features
        return list(self.blocks()) if numbers * self.targets.element_size() <= KEPT_BYTES else None

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
    the solve's factor."""

    losses: Float[Tensor, " scan"]
    params: Params
    factor: Factor


@torch.no_grad()
def solve(
    fit: LinearFit, ridge: float, blocks: list[Block] | None = None
) -> tuple[Factor, Float[Tensor, "scan feature"]]:
    """The latents that fit the context set best, and the factorised Gram matrix."""
    sums = Sums.zeros(len(fit.targets), fit.grid.spec.features, fit.targets.device)
    for block in blocks if blocks is not None else fit.blocks():
        seen = block.in_context()
        sums.add(seen.rows, seen.residues, fit.arithmetic)
    factor = Factor.of(fit.ranks.sum(sums.gram), ridge, WITHOUT_FACTOR)
    return factor, factor.solve(fit.ranks.sum(sums.right))


@torch.no_grad()
def solved_losses(fit: LinearFit, ridge: float) -> Float[Tensor, " scan"]:
    """Each scan's mean squared error over all points, of the latent that fits its context set best."""
    blocks = fit.kept_blocks()
    latents = solve(fit, ridge, blocks)[1].to(fit.targets.dtype)
    return _outer(fit, blocks, latents)[0]


@torch.no_grad()
def basis_gradient(fit: LinearFit, ridge: float) -> BasisGradient:
    """Outer losses, and the exact gradient of their sum."""
    blocks, dtype = fit.kept_blocks(), fit.targets.dtype
    factor, exact = solve(fit, ridge, blocks)
    latents = exact.to(dtype)
    losses, by_latents = _outer(fit, blocks, latents)
    pulls = factor.solve(by_latents.double())  # q
    by_gram = _by_gram(exact, pulls, factor.ridge).to(dtype)
    pulls = pulls.to(dtype)
    total = {name: torch.zeros_like(fit.grid.params[name]) for name in fit.grid.spec.shapes()}
    for block in blocks if blocks is not None else fit.blocks():
        found = fit.grid.pull_back(block.points, *_adjoints(fit, block, latents, pulls, by_gram))
        for name, part in zip(total, found, strict=True):
            total[name] += part
    return BasisGradient(losses, total, factor)


def _outer(
    fit: LinearFit, blocks: list[Block] | None, latents: Tensor
) -> tuple[Float[Tensor, " scan"], Float[Tensor, "scan feature"]]:
    """Losses on all points, and their derivatives p by the latents."""
    losses, by_latents = fit.targets.new_zeros(len(latents)), torch.zeros_like(latents)
    for block in blocks if blocks is not None else fit.blocks():
        errors = _errors(fit, block, latents)
        losses += errors.square().sum(1)
        by_latents += product(errors, block.rows, fit.arithmetic)
    losses, by_latents = fit.ranks.sum(losses), fit.ranks.sum(by_latents)
    return losses / fit.grid.values, by_latents * (2 / fit.grid.values)


def _errors(fit: LinearFit, block: Block, latents: Tensor) -> Float[Tensor, "scan value"]:
    """ŷ − y."""
    return product(latents, block.rows.T, fit.arithmetic) - block.residues


def _by_gram(latents: Tensor, pulls: Tensor, ridge: float) -> Float[Tensor, "feature feature"]:
    """Γ."""
    half = pulls.T @ latents
    by_gram = -(half + half.T) / 2
    by_gram.diagonal().sub_(ridge / len(half) * (pulls * latents).sum())
    return by_gram


def _adjoints(
    fit: LinearFit, block: Block, latents: Tensor, pulls: Tensor, by_gram: Tensor
) -> tuple[Float[Tensor, "value feature"], Float[Tensor, " value"]]:
    """dJ/dB and dJ/dμ of a block."""
    by = fit.arithmetic
    residue = _errors(fit, block, latents) * (2 / fit.grid.values)
    by_rows, by_means = product(residue.T, latents, by), residue.sum(0)
    seen = block.in_context()
    by_rows_seen = 2 * product(seen.rows, by_gram, by) + product(seen.residues.T, pulls, by)
    by_means_seen = seen.rows @ pulls.sum(0)
    if block.inside is None:
        return by_rows.add_(by_rows_seen), by_means.sub_(by_means_seen)
    by_rows[block.inside] += by_rows_seen
    by_means[block.inside] -= by_means_seen
    return by_rows, by_means
