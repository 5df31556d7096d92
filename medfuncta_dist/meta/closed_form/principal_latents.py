"""The latent's own coordinates: M, computed once from a trained basis field and training scans (docs/method.md, 8).

With ⟨f, g⟩ the mean over all values of the grid, M's columns make the functions B = sM orthonormal, and the numbers of
a latent uncorrelated over the training scans, with variances that fall. So ‖φ − φ'‖² is the mean squared difference of
two images, the first p numbers are the best p that these features have for the training scans (they are their principal
components within the span of the features), and the mean scan has φ = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import MAP, MEAN
from medfuncta_dist.meta.closed_form.basis_gradient import LinearFit
from medfuncta_dist.meta.closed_form.normal_equations import Factor, Sums
from medfuncta_dist.meta.learner import Ranks, Trained

RIDGE = 1e-6
"""Of the features' Gram matrix: functions that the others give to 1e-6 add noise only."""
PRIOR = 1e-5
"""Share of the variance that is taken to be the features' own, all weighing alike: where there are fewer training scans
than numbers in a latent, it says which further directions to keep. Scans decide wherever they vary more than that."""


@dataclass
class ScanMoments:
    """Sums over scans of b = sᵀ(y − μ)/ND and of the scans' own squares, from which variances follow. Float64."""

    count: Float[Tensor, ""]
    first: Float[Tensor, " feature"]
    second: Float[Tensor, "feature feature"]
    squares: Float[Tensor, ""]

    @classmethod
    def none(cls, features: int, device: torch.device) -> ScanMoments:
        """Of no scans."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        first = zero.new_zeros(features)
        return cls(zero.clone(), first, zero.new_zeros(features, features), zero.clone())

    def add(self, products: Float[Tensor, "scan feature"], squares: Float[Tensor, " scan"]) -> None:
        """Add scans: their b, and the mean square of what the mean leaves of each."""
        # In float64: M multiplies what the features hardly have by up to a thousand, and rounding errors with it.
        products = products.double()
        self.count += len(products)
        self.first += products.sum(0)
        self.second.addmm_(products.T, products)
        self.squares += squares.double().sum()

    def over(self, ranks: Ranks) -> ScanMoments:
        """Those of all ranks' scans."""
        return ScanMoments(*(ranks.sum(part) for part in (self.count, self.first, self.second, self.squares)))


@torch.no_grad()
def mean_gram(fit: LinearFit) -> Float[Tensor, "feature feature"]:
    """The features' Gram matrix, as a mean over all values of the grid. The scans of ``fit`` are not used.

    Products too are in float64: what the features hardly have, M multiplies by up to a thousand.
    """
    gram = Sums.zeros(0, fit.spec.features, fit.targets.device).gram
    for block in replace(fit, targets=fit.targets[:0]).blocks():
        rows = block.rows.double()
        gram.addmm_(rows.T, rows)
    return gram / fit.values_per_scan


@torch.no_grad()
def add_scans(moments: ScanMoments, fit: LinearFit) -> None:
    """Add the scans of ``fit``. Products are in float64, as those of the Gram matrix: of features that nearly depend on
    each other, variances are only then those that fitting finds."""
    products = fit.targets.new_zeros(len(fit.targets), fit.spec.features, dtype=torch.float64)
    squares = products.new_zeros(len(fit.targets))
    for block in fit.blocks():
        residues = block.residues.double()
        products += residues @ block.rows.double()
        squares += residues.square().sum(1)
    moments.add(products / fit.values_per_scan, squares / fit.values_per_scan)


@torch.no_grad()
def principal(fit: LinearFit, gram: Float[Tensor, "feature feature"], moments: ScanMoments, latent: int) -> Trained:
    """The field of ``fit`` with the P = ``latent`` best numbers as its latent; the rest of ``fit`` is not used.

    ``facts``: ``residual``, the mean squared error that P numbers leave of the scans that ``moments`` are of;
    ``scans``, how many these are.
    """
    factor = Factor.of(gram, RIDGE)
    mean = moments.first / moments.count
    centred = moments.second / moments.count - mean.outer(mean)
    # In orthonormal coordinates z = L⁻¹b: covariance L⁻¹ C L⁻ᵀ.
    half = torch.linalg.solve_triangular(factor.lower, centred, upper=False)
    covariance = torch.linalg.solve_triangular(factor.lower, half.T, upper=False)
    directions = torch.linalg.eigh(_with_prior((covariance + covariance.T) / 2, factor.lower))[1].flip(1)[:, :latent]
    map_ = torch.linalg.solve_triangular(factor.lower.T, directions, upper=True)
    map_ = _orthonormal(_signed(map_), gram)
    variances = (map_ * (centred @ map_)).sum(0).clamp(min=0)
    order = variances.argsort(descending=True, stable=True)
    map_, variances = map_[:, order], variances[order]
    shift = factor.solve(mean[None])[0]
    spread = moments.squares / moments.count - 2 * shift @ mean + shift @ gram @ shift
    params = {name: tensor.detach() for name, tensor in fit.params.items()}
    params |= {MEAN: (params[MEAN].double() + shift).to(params[MEAN].dtype), MAP: map_.to(params[MEAN].dtype)}
    residual = max(0.0, float(spread - variances.sum()))
    extras = {"latent.variances": variances.float()}
    facts = {"residual": residual, "scans": int(moments.count)}
    return Trained(replace(fit.spec, latent=latent, mapped=True), params, extras, facts)


def _with_prior(covariance: Tensor, lower: Tensor) -> Tensor:
    """The scans' covariance with a share of what features of equal and independent weights would have: LᵀL."""
    prior = lower.T @ lower
    return covariance + PRIOR * covariance.trace() / prior.trace() * prior


def _orthonormal(map_: Tensor, gram: Tensor) -> Tensor:
    """The nearest map in the same order whose functions are orthonormal without the ridge, too."""
    lower = torch.linalg.cholesky(map_.T @ gram @ map_)
    nearest: Tensor = torch.linalg.solve_triangular(lower, map_.T, upper=False).T
    return nearest


def _signed(map_: Tensor) -> Tensor:
    """Each column with its largest number positive: a direction has two signs, and eigenvectors come with either."""
    largest = map_.gather(0, map_.abs().argmax(0, keepdim=True))
    return map_ * torch.where(largest < 0, -1.0, 1.0)
