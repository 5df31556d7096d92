"""Least squares over the points of a grid: G = Σ wBᵀB, right sides Σ wBᵀ(y − μ), and the ridge solve (method.md, 8).

    φ = argmin Σ_i w_i ‖y_i − μ_i − B_i φ‖² + λ tr(G)/F ‖φ‖²   ⇒   (G + λ tr(G)/F I) φ = Σ_i w_i B_iᵀ (y_i − μ_i)

Products over points are in the type of the data; sums over blocks, the factorisation and the solves are in float64:
with λ = 1e-4 a Gram matrix of a thousand functions may have a condition number of 1e7, beyond what float32 can
factorise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.products import product

POWER_STEPS = 12
"""Of the power iteration for a condition number: enough for its leading digit, at the cost of as many solves."""
RAISED = 10.0
RAISES = 4
"""A ridge that rounding errors of the Gram matrix outweigh is raised tenfold, at most so many times. In float32 they
are about 1e-7 of the largest eigenvalue, which is some hundred times the mean of thousands of functions."""


@dataclass(frozen=True)
class Sums:
    """What least squares need of the points: G, and a right side per scan. Float64."""

    gram: Float[Tensor, "feature feature"]
    right: Float[Tensor, "scan feature"]

    @classmethod
    def zeros(cls, scans: int, features: int, device: torch.device) -> Sums:
        """Of no points."""
        gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        return cls(gram, torch.zeros(scans, features, dtype=torch.float64, device=device))

    def add(
        self, rows: Float[Tensor, "value feature"], residues: Float[Tensor, "scan value"], arithmetic: Arithmetic
    ) -> None:
        """Add some values: the basis at these (times √w) and what the mean leaves of each scan (times √w)."""
        self.gram.add_(product(rows.T, rows, arithmetic))
        self.right.add_(product(residues, rows, arithmetic))


@dataclass(frozen=True)
class Factor:
    """A Gram matrix with its ridge, factorised: LLᵀ = G + λ tr(G)/F I. Float64."""

    lower: Float[Tensor, "feature feature"]
    ridge: float
    """λ: as it was asked for, or raised until there was a factor."""

    @classmethod
    def found(cls, gram: Float[Tensor, "feature feature"], ridge: float) -> Factor | None:
        """None where the matrix is not finite, or no ridge up to ``RAISED ** RAISES`` times makes it positive
        definite."""
        for tried in (ridge * RAISED**n for n in range(RAISES + 1)):
            regular = gram.clone()
            regular.diagonal().add_(tried * gram.diagonal().mean())
            lower, failed = torch.linalg.cholesky_ex(regular)
            if not int(failed) and bool(torch.isfinite(lower.diagonal()).all()):
                return cls(lower, tried)
        return None

    @classmethod
    def of(cls, gram: Float[Tensor, "feature feature"], ridge: float, do: str) -> Factor:
        """As ``found``. MedfunctaError where there is none, with what its user can ``do``."""
        factor = cls.found(gram, ridge)
        if factor is None:
            what = f"the basis has no Gram matrix that can be factorised ({len(gram)} functions, ridge {ridge:g})"
            raise MedfunctaError(what, do=do)
        return factor

    def solve(self, right: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        """(G + ridge)⁻¹ applied to each row, in the type of the rows."""
        return torch.cholesky_solve(right.T.double(), self.lower).T.to(right.dtype)

    def condition(self) -> float:
        """The condition number of what was factorised, by power iteration: its leading digit is right."""
        largest = _growth(lambda v: self.lower @ (self.lower.T @ v), self.lower)
        smallest = _growth(lambda v: torch.cholesky_solve(v, self.lower), self.lower)
        return largest * smallest


def _growth(apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """The largest eigenvalue of a symmetric map, nearly."""
    vector = torch.linspace(0.5, 1.5, len(like), dtype=like.dtype, device=like.device)[:, None]
    norm = vector.norm()
    for _ in range(POWER_STEPS):
        vector = apply(vector / norm)
        norm = vector.norm()
    return float(norm)
