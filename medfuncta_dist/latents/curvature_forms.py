"""The curvature of a block's scans, in the form that costs least, and the damped step that it gives (method.md, 7).

H = RᵀR, R = √(2/values) J: a row per sampled value, a column per latent number. With fewer values than numbers H has no
full rank, and the damped step needs a factor of their number only (Woodbury):

    (RᵀR + μI)⁻¹ g = (g − Rᵀ (RRᵀ + μI)⁻¹ R g) / μ
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Solution = tuple[Float[Tensor, "batch latent"], Bool[Tensor, " batch"]]
"""A step, and of which scans there is one: it is zero for the others."""


@runtime_checkable
class Curvature(Protocol):
    """What a Gauss-Newton step asks of H."""

    @property
    def mean_diagonal(self) -> Float[Tensor, " #batch"]:
        """Of each scan's H."""
        ...

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that a scan needs of it to go on from these latents, by scan."""
        ...

    def damped_solution(self, damping: Float[Tensor, " batch"], right: Float[Tensor, "batch latent"]) -> Solution:
        """(H + damping · mean diagonal · I)⁻¹ right, scan by scan."""
        ...


@dataclass(frozen=True)
class Primal:
    """H itself: one per scan, or one for all."""

    matrix: Float[Tensor, "#batch latent latent"]

    @property
    def mean_diagonal(self) -> Float[Tensor, " #batch"]:
        """Of each H."""
        return self.matrix.diagonal(dim1=1, dim2=2).mean(1)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """H."""
        return (self.matrix,)

    def damped_solution(self, damping: Float[Tensor, " batch"], right: Float[Tensor, "batch latent"]) -> Solution:
        """By a Cholesky factor of H's size. One for all scans takes the first one's damping: theirs must be equal."""
        factor, found = _factor(self.matrix, (damping[: len(self.matrix)] * self.mean_diagonal))
        return _zero_unless(found.expand(len(right)), _solve(factor, right))


@dataclass(frozen=True)
class Dual:
    """R, and with it RRᵀ, which is smaller than H: one per scan, or one for all."""

    rows: Float[Tensor, "#batch value latent"]
    gram: Float[Tensor, "#batch value value"]

    @property
    def mean_diagonal(self) -> Float[Tensor, " #batch"]:
        """Of each H: its trace is that of RRᵀ."""
        return self.gram.diagonal(dim1=1, dim2=2).sum(1) / self.rows.shape[2]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """R and RRᵀ."""
        return self.rows, self.gram

    def damped_solution(self, damping: Float[Tensor, " batch"], right: Float[Tensor, "batch latent"]) -> Solution:
        """By a Cholesky factor of the size of RRᵀ.

        What Woodbury's difference leaves is a small number from two large ones, along the steepest directions: the
        second time it is asked for what the first one missed.
        """
        added = damping * self.mean_diagonal
        factor, found = _factor(self.gram, added)
        first = self._woodbury(factor, added, right)
        missed = right - added[:, None] * first - self._down(self._up(first))
        return _zero_unless(found, first + self._woodbury(factor, added, missed))

    def _woodbury(self, factor: Tensor, added: Tensor, right: Tensor) -> Tensor:
        return (right - self._down(_solve(factor, self._up(right)))) / added[:, None]

    def _up(self, right: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch value"]:
        return torch.bmm(self.rows, right[..., None])[..., 0]

    def _down(self, right: Float[Tensor, "batch value"]) -> Float[Tensor, "batch latent"]:
        return torch.bmm(right[:, None], self.rows)[:, 0]


@dataclass(frozen=True)
class AtOrigin:
    """H at φ = 0 on all points, primal: one matrix and one factor serve all scans of a block.

    ``later``: that of a later step's sample at φ = 0, in the later steps' form.
    """

    exact: Curvature
    later: Curvature

    @property
    def mean_diagonal(self) -> Float[Tensor, " 1"]:
        """Of H on all points."""
        return self.exact.mean_diagonal

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Those of the later steps' form."""
        return self.later.parts

    def damped_solution(self, damping: Float[Tensor, " batch"], right: Float[Tensor, "batch latent"]) -> Solution:
        """With H on all points; every scan's damping is still the one that it began with."""
        return self.exact.damped_solution(damping, right)


Form = type[Primal] | type[Dual]


def form_of(values: int, latent: int) -> Form:
    """The form in which the curvature of so many values is kept: decided by shapes alone."""
    return Dual if values < latent else Primal


def take_back(better: Bool[Tensor, " batch"], here: Curvature, before: Curvature) -> None:
    """Put ``before`` in the place of ``here``, in its memory, for the scans that are not better."""
    for part, earlier in zip(here.parts, before.parts, strict=True):
        torch.where(better[:, None, None], part, earlier, out=part)


def _factor(matrix: Float[Tensor, "#batch n n"], added: Float[Tensor, " #batch"]) -> tuple[Tensor, Tensor]:
    """U with UᵀU = matrix + added · I, and whether there is one. A scan with NaN has none, and affects no other."""
    damped = matrix.clone().mT  # symmetric, and in LAPACK's order: it is factorised where it lies
    damped.diagonal(dim1=1, dim2=2).add_(added[:, None])
    failed = torch.empty(len(damped), dtype=torch.int32, device=damped.device)
    torch.linalg.cholesky_ex(damped, upper=True, out=(damped, failed))
    return damped, failed == 0


def _solve(factor: Float[Tensor, "#batch n n"], right: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """(UᵀU)⁻¹ right. Two triangular solves, as cholesky_solve does, but without its copy of the factor."""
    if len(factor) == 1 < len(right):
        return _triangular(factor[0], right.mT.contiguous()).mT
    return _triangular(factor, right[..., None])[..., 0]


def _triangular(factor: Tensor, right: Tensor) -> Tensor:
    half = torch.linalg.solve_triangular(factor.mT, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor, half, upper=True)
    return solution


def _zero_unless(found: Bool[Tensor, " batch"], solution: Float[Tensor, "batch latent"]) -> Solution:
    return torch.where(found[:, None], solution, 0), found
