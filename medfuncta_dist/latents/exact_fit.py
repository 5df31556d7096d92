"""Fitting a basis field: one matrix product per batch (docs/method.md, 8). Runs on bare torch.

    φ = A (y − μ),    A = (Σ_C wBᵀB + λ tr/P I)⁻¹ Bᵀw,    zero columns outside the context C

A depends on the network, the grid and the context only: it is made once. Weights that differ by scan need a solve each.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec, mean_and_basis
from medfuncta_dist.fields.params import Params
from medfuncta_dist.latents.curvature import spread_points
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.latent_types import int8_units, store
from medfuncta_dist.meta.closed_form.normal_equations import Factor, Sums
from medfuncta_dist.meta.losses import psnr_of_mse
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.memory import keep_freed_memory
from medfuncta_dist.meta.machine.products import product

BLOCK_NUMBERS = 2**22
"""Of the basis that are in float64 at once while A is made: 32 MB."""
WITHOUT_FACTOR = (
    "raise fit.ridge; if that does not help, the network is damaged or its training diverged: "
    "verify the run, or train it again with a lower train.rate"
)


class ExactFitter:
    """A basis field on a grid, ready to fit batch after batch.

    Holds B and A, values times P numbers each: 64 MB at 64 x 64 and P = 2048, 2 GB at 32³ and P = 8192.
    """

    halved = False

    def __init__(
        self,
        spec: BasisSpec,
        params: Params,
        coordinates: Float[Tensor, "point coord"],
        settings: FitSettings,
        variances: Float[Tensor, " latent"] | None = None,
    ) -> None:
        keep_freed_memory()
        self._settings, device = settings, coordinates.device
        arithmetic = Arithmetic.best(device) if settings.arithmetic is None else settings.arithmetic.require(device)
        self._arithmetic = arithmetic
        keep = spec.latent if settings.keep is None else settings.keep
        self.units = int8_units(variances, keep)
        self._mean, self._rows = _sampled(spec, params, coordinates, keep)
        chosen = spread_points(len(coordinates), settings.selection_ratio, 0).to(device)
        whole = len(chosen) == len(coordinates)
        self._context = None if whole else _values_of(chosen, spec.channels)
        rows = self._seen(self._rows)
        self._solver = self._solver_of(rows, Factor.of(self._gram(rows, rows), settings.ridge, WITHOUT_FACTOR))

    @torch.no_grad()
    def fit(
        self,
        targets: Float[Tensor, "batch point channel"],
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> FitResult:
        """The latent of every scan. Rows are independent, as ``Fitter``'s are.

        ``weights``: how much each point counts, not negative; the PSNR is then of the weighted mean squared error.
        Values at points of weight 0 do not count, not even where they are not finite. A scan whose weights do not
        determine its latent gives the smallest that fits, by the ridge; one without any weight, or with a weight that
        is negative or not finite, has none, and ``finite`` is False.
        """
        by_value = None if weights is None else weights.repeat_interleave(targets.shape[2], 1)
        if by_value is not None:
            targets = targets.masked_fill((by_value == 0).view_as(targets), 0)
        residues = targets.flatten(1) - self._mean
        latents = self._solved(residues) if by_value is None else self._solved_apart(residues, by_value)
        stored = store(latents, self._settings.storage_type, self.units)
        restored = stored.restored().to(targets.dtype)
        quality = psnr_of_mse(self._errors(restored, targets, by_value))
        finite = torch.isfinite(restored).all(dim=1) & torch.isfinite(quality)
        # One step, which is solved: without a solution there is no latent, and the scan is not finite.
        steps, unsolved = torch.ones(len(targets), dtype=torch.int32), torch.zeros(len(targets), dtype=torch.int32)
        return FitResult(restored, quality, finite, steps, stored, unsolved)

    @torch.no_grad()
    def quality(
        self, latents: Float[Tensor, "batch latent"], targets: Float[Tensor, "batch point channel"]
    ) -> Float[Tensor, " batch"]:
        """The PSNR (dB) of other latents of these scans."""
        return psnr_of_mse(self._errors(latents.to(targets.dtype), targets, None))

    def _solved(self, residues: Tensor) -> Tensor:
        seen = residues if self._context is None else residues[:, self._context]
        return product(seen, self._solver, self._arithmetic)

    def _solved_apart(self, residues: Tensor, weights: Tensor) -> Tensor:
        """Each scan by its own weights; scan by scan, for a factor has P² numbers."""
        scans = zip(residues, weights, strict=True)
        return torch.stack([self._solved_alone(residue, weight) for residue, weight in scans])

    def _solved_alone(self, residue: Tensor, weights: Tensor) -> Tensor:
        # Where there is no solution there is no latent: that scan is not finite, its neighbours are fitted.
        nothing = residue.new_full((self._rows.shape[1],), torch.nan)
        if not (weights.min() >= 0 and torch.isfinite(weights).all()):
            return nothing
        rows, weights = self._seen(self._rows), self._seen(weights)
        weighted = rows * weights[:, None]
        factor = Factor.found(self._gram(rows, weighted), self._settings.ridge) if weights.any() else None
        return nothing if factor is None else self._solver_of(weighted, factor).T @ self._seen(residue)

    def _seen(self, values: Tensor) -> Tensor:
        return values if self._context is None else values[self._context]

    def _errors(self, latents: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Mean squared error of each scan over all points; values are clamped, as PSNR wants."""
        values = product(latents, self._rows.T, self._arithmetic).add_(self._mean).clamp_(0, 1)
        squares = values.sub_(targets.flatten(1)).square_()
        return squares.mean(1) if weights is None else (squares * weights).sum(1) / weights.sum(1)

    def _gram(self, rows: Tensor, weighted: Tensor) -> Float[Tensor, "latent latent"]:
        sums = Sums.zeros(0, rows.shape[1], rows.device)
        sums.gram.add_(product(rows.T, weighted, self._arithmetic))
        return sums.gram

    def _solver_of(self, weighted: Float[Tensor, "value latent"], factor: Factor) -> Float[Tensor, "value latent"]:
        """Aᵀ, for all scans or for one with weights."""
        parts = torch.split(weighted, max(1, BLOCK_NUMBERS // weighted.shape[1]))
        return torch.cat([factor.solve(part) for part in parts])


def _sampled(
    spec: BasisSpec, params: Params, coordinates: Tensor, keep: int
) -> tuple[Float[Tensor, " value"], Float[Tensor, "value latent"]]:
    """μ and the first ``keep`` functions on the grid, a block of points at a time."""
    frozen = {name: tensor.detach() for name, tensor in params.items()}
    parts = torch.split(coordinates, max(1, BLOCK_NUMBERS // spec.widest))
    with torch.no_grad():
        found = [mean_and_basis(spec, frozen, part) for part in parts]
        means, rows = [mean.flatten() for mean, _ in found], [basis.flatten(0, 1)[:, :keep] for _, basis in found]
        return torch.cat(means), torch.cat(rows)


def _values_of(points: Tensor, channels: int) -> Tensor:
    """Indices of the values at these points, all channels."""
    return (points[:, None] * channels + torch.arange(channels, device=points.device)).flatten()
