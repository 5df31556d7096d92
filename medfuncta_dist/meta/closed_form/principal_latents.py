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
from torch.nn.functional import pad

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.basis import MAP, MEAN, BasisSpec
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.closed_form.feature_grid import FeatureGrid
from medfuncta_dist.meta.closed_form.normal_equations import Sums
from medfuncta_dist.meta.learner import Ranks, Trained

NEGLIGIBLE = 1e-9
"""Of the mean eigenvalue of the features' Gram matrix: what features have less of is rounding noise in float32."""
PRIOR = 1e-5
"""Share of the variance that is taken to be the features' own, all weighing alike: where there are fewer training scans
than numbers in a latent, it says which further directions to keep. Scans decide wherever they vary more than that."""
LEAST_VARIANCE = 1e-8
"""Of which the prior is a share where scans do not vary: well above rounding errors of their squares."""


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
def mean_gram(grid: FeatureGrid) -> Float[Tensor, "feature feature"]:
    """The features' Gram matrix, as a mean over all values of the grid. A collective of the grid's ranks.

    Products too are in float64: what the features hardly have, M multiplies by up to a thousand.
    """
    gram = Sums.zeros(0, grid.spec.features, grid.coordinates.device).gram
    for part in grid.parts():
        rows = part.rows.double()
        gram.addmm_(rows.T, rows)
    return grid.ranks.sum(gram) / grid.values


@torch.no_grad()
def add_scans(moments: ScanMoments, grid: FeatureGrid, scans: Float[Tensor, "scan point channel"]) -> None:
    """Add scans on a grid that one rank has alone. Products are in float64, as those of the Gram matrix: of features
    that nearly depend on each other, variances are only then those that fitting finds."""
    products = scans.new_zeros(len(scans), grid.spec.features, dtype=torch.float64)
    squares = products.new_zeros(len(scans))
    for part in grid.parts():
        residues = (scans[:, part.points].flatten(1) - part.means).double()
        products += residues @ part.rows.double()
        squares += residues.square().sum(1)
    moments.add(products / grid.values, squares / grid.values)


@dataclass(frozen=True)
class Orthonormal:
    """As many functions as the features span, R ≤ F, orthonormal over the grid: s times ``map``. Float64."""

    map: Float[Tensor, "feature function"]
    strengths: Float[Tensor, " function"]
    """Mean square of what features of weights with unit variance have of each: G's eigenvalues."""

    @classmethod
    def of(cls, gram: Float[Tensor, "feature feature"]) -> Orthonormal:
        """From the features' Gram matrix. MedfunctaError where it is not finite."""
        _check_finite(gram, "the field's features are not finite")
        strengths, vectors = torch.linalg.eigh(gram)
        kept = int((strengths > NEGLIGIBLE * strengths.mean()).sum())
        strengths, vectors = strengths[len(strengths) - kept :], vectors[:, len(strengths) - kept :]
        return cls(vectors * strengths.rsqrt(), strengths)


@dataclass(frozen=True)
class Principal:
    """What is computed once after training: M, how m moves, the variances, and what P numbers leave."""

    map: Float[Tensor, "feature latent"]
    shift: Float[Tensor, " feature"]
    variances: Float[Tensor, " latent"]
    residual: Float[Tensor, ""]
    """Mean squared error of the scans' best fit by P numbers."""

    @classmethod
    def zeros(cls, features: int, latent: int, device: torch.device) -> Principal:
        """Of a rank that is told by another."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(zero.new_zeros(features, latent), zero.new_zeros(features), zero.new_zeros(latent), zero)

    def over(self, ranks: Ranks) -> Principal:
        """Rank 0's, on every rank, where the others have zeros. A collective."""
        return Principal(*(ranks.sum(part) for part in (self.map, self.shift, self.variances, self.residual)))


@torch.no_grad()
def principal(functions: Orthonormal, moments: ScanMoments, latent: int) -> Principal:
    """The P = ``latent`` best numbers. Where there are fewer functions, M's last columns are zeros.

    Raises MedfunctaError where a scan is not finite. At most five F x F matrices at a time, with those given.
    """
    _check_finite(moments.second, "a training scan has values that are not finite")
    mean, to = moments.first / moments.count, functions.map
    seen = to.T @ mean  # of the mean scan, in orthonormal coordinates
    covariance = (to.T @ (moments.second / moments.count) @ to).addr_(seen, seen, alpha=-1)
    prior = PRIOR * max(float(covariance.trace()), LEAST_VARIANCE) / functions.strengths.sum() * functions.strengths
    covariance.diagonal().add_(prior)
    values, directions = torch.linalg.eigh(covariance)
    values, directions = values.flip(0)[:latent], directions.flip(1)[:, :latent]
    variances = (values - prior @ directions.square()).clamp(min=0)
    order = variances.argsort(descending=True, stable=True)
    map_, variances = _signed(to @ directions[:, order]), variances[order]
    residual = moments.squares / moments.count - seen.square().sum() - variances.sum()
    missing = latent - len(variances)
    return Principal(pad(map_, (0, missing)), to @ seen, pad(variances, (0, missing)), residual.clamp(min=0))


def trained_with(spec: BasisSpec, params: Params, found: Principal, scans: int) -> Trained:
    """The field of θ without M, with these latents. ``facts``: ``residual``, and of how many ``scans``."""
    dtype = params[MEAN].dtype
    moved = {MEAN: (params[MEAN].double() + found.shift).to(dtype), MAP: found.map.to(dtype)}
    mapped = replace(spec, latent=found.map.shape[1], mapped=True)
    facts = {"residual": float(found.residual), "scans": scans}
    return Trained(mapped, params | moved, {"latent.variances": found.variances.float()}, facts)


def _check_finite(matrix: Tensor, what: str) -> None:
    if not bool(torch.isfinite(matrix).all()):
        raise MedfunctaError(what, do="go back to an earlier checkpoint with a lower train.rate; check the scans")


def _signed(map_: Tensor) -> Tensor:
    """Each column with its largest number positive: a direction has two signs, and eigenvectors come with either."""
    largest = map_.gather(0, map_.abs().argmax(0, keepdim=True))
    return map_ * torch.where(largest < 0, -1.0, 1.0)
