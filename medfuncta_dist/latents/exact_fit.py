"""Fitting a basis field: one matrix product per batch (docs/method.md, 8). Runs on bare torch.

    φ = A (y − μ),    A = (Σ_C wBᵀB + λ tr/P I)⁻¹ Bᵀw,    zero columns outside the context C

A depends on the network, the grid and the context only: it is made once. Points with weights need a factor for each
pattern of weights, which scans with equal weights share; of those, A itself is not made.
"""

from __future__ import annotations

from functools import cached_property

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
from medfuncta_dist.meta.point_weights import counted, has_weight, relative

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
        self._factor = Factor.of(self._gram(rows), settings.ridge, WITHOUT_FACTOR)
        self._solver = self._solver_of(rows, self._factor)

    @torch.no_grad()
    def fit(
        self,
        targets: Float[Tensor, "batch point channel"],
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> FitResult:
        """The latent of every scan, as ``Fitter`` says.

        A scan whose weights do not determine its latent gives the smallest that fits, by the ridge; one without any
        weight in the context has the latent 0.
        """
        given = targets
        targets, by_value = _by_value(targets, weights)
        residues = targets.flatten(1) - self._mean
        latents = self._solved(residues) if by_value is None else self._solved_apart(residues, by_value)
        stored = store(latents, self._settings.storage_type, self.units)
        restored = stored.restored().to(targets.dtype)
        quality = psnr_of_mse(self._errors(restored, targets, by_value))
        everywhere = None if weights is None else psnr_of_mse(self._errors(restored, given, None))
        finite = torch.isfinite(restored).all(dim=1) & torch.isfinite(quality)
        # One step, which is solved: without a solution there is no latent, and the scan is not finite.
        steps, unsolved = torch.ones(len(targets), dtype=torch.int32), torch.zeros(len(targets), dtype=torch.int32)
        return FitResult(restored, quality, finite, steps, stored, unsolved, everywhere)

    @torch.no_grad()
    def quality(
        self,
        latents: Float[Tensor, "batch latent"],
        targets: Float[Tensor, "batch point channel"],
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The PSNR (dB) of other latents of these scans."""
        targets, by_value = _by_value(targets, weights)
        return psnr_of_mse(self._errors(latents.to(targets.dtype), targets, by_value))

    def _solved(self, residues: Tensor) -> Tensor:
        return product(self._of_context(residues), self._solver, self._arithmetic)

    def _solved_apart(
        self, residues: Float[Tensor, "batch value"], weights: Float[Tensor, "batch value"]
    ) -> Float[Tensor, "batch latent"]:
        """Each scan by its own weights, one pattern of weights after the other: a factor has P² numbers."""
        residues, weights = self._of_context(residues), self._of_context(weights)
        invalid = weights.isnan().any(1, keepdim=True)
        latents = residues.new_zeros(len(residues), self._rows.shape[1])
        patterns, of = torch.unique(weights.masked_fill(invalid, 0), dim=0, return_inverse=True)
        for index in has_weight(patterns).nonzero().flatten().tolist():
            scans = of == index
            latents[scans] = self._solved_alike(residues[scans], patterns[index])
        # Where there is no solution there is no latent: that scan is not finite, its neighbours are fitted.
        return latents.masked_fill(invalid, torch.nan)

    def _solved_alike(
        self, residues: Float[Tensor, "alike seen"], weights: Float[Tensor, " seen"]
    ) -> Float[Tensor, "alike latent"]:
        """Of scans whose values in the context have the same weights; each alone, so that its bits do not depend on
        how many these are."""
        rows, roots = self._seen_rows, None
        if bool((weights == 1).all()):  # a scan that is inside its mask everywhere
            factor: Factor | None = self._factor
        else:
            inside = weights > 0
            roots, residues = weights[inside].sqrt(), residues[:, inside]
            rows = rows[inside].mul_(roots[:, None])
            factor = Factor.found(self._gram(rows), self._settings.ridge)
        if factor is None:
            return residues.new_full((len(residues), rows.shape[1]), torch.nan)
        residues = residues if roots is None else residues * roots
        return torch.cat([factor.solve((rows.T @ residue)[None]) for residue in residues])

    def _of_context(self, by_scan: Float[Tensor, "batch value"]) -> Float[Tensor, "batch seen"]:
        return by_scan if self._context is None else by_scan[:, self._context]

    @cached_property
    def _seen_rows(self) -> Float[Tensor, "seen latent"]:
        """The basis at the values of the context: a copy where that is not the whole grid, made when it is needed."""
        return self._seen(self._rows)

    def _seen(self, values: Tensor) -> Tensor:
        return values if self._context is None else values[self._context]

    def _errors(self, latents: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Mean squared error of each scan over all points; values are clamped, as PSNR wants."""
        values = product(latents, self._rows.T, self._arithmetic).add_(self._mean).clamp_(0, 1)
        squares = values.sub_(targets.flatten(1)).square_()
        return (squares if weights is None else squares * weights).mean(1)

    def _gram(self, rows: Float[Tensor, "value latent"]) -> Float[Tensor, "latent latent"]:
        sums = Sums.zeros(0, rows.shape[1], rows.device)
        sums.gram.add_(product(rows.T, rows, self._arithmetic))
        return sums.gram

    def _solver_of(self, rows: Float[Tensor, "value latent"], factor: Factor) -> Float[Tensor, "value latent"]:
        """Aᵀ."""
        parts = torch.split(rows, max(1, BLOCK_NUMBERS // rows.shape[1]))
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


def _by_value(
    targets: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"] | None
) -> tuple[Float[Tensor, "batch point channel"], Float[Tensor, "batch value"] | None]:
    """The targets as far as they count, and how much each of their values does; None where all count alike."""
    if weights is None:
        return targets, None
    targets = counted(targets, weights)
    return targets, relative(weights.to(targets.dtype)).repeat_interleave(targets.shape[2], 1)
