"""A fitter whose latents are rounded to the symbols of curved tables, and judged as they are stored."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.latents.curved.curved_tables import LARGEST_SYMBOL, CurvedTables
from medfuncta_dist.latents.fit import Fitter
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.latent_types import Stored


class CurvedFitter:
    """Fits as another fitter does, which stores float32. A scan beyond the largest symbol gets an infinite latent, as
    one does that is beyond float16."""

    units: Float[Tensor, " latent"] | None = None

    def __init__(self, fitter: Fitter, tables: CurvedTables, device: torch.device) -> None:
        self._fitter, self.halved = fitter, fitter.halved
        self._mean = torch.from_numpy(tables.mean).to(device).double()
        self._map, self._inverse = (torch.from_numpy(one).to(device) for one in (tables.map, tables.inverse))
        self._exponents = torch.from_numpy(tables.exponents).to(device)

    @torch.no_grad()
    def fit(
        self, targets: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"] | None = None
    ) -> FitResult:
        """The latent of every scan, as the tables give it from its symbols."""
        fitted = self._fitter.fit(targets, weights)
        self.halved = self._fitter.halved
        values = (fitted.latents.double() - self._mean) @ self._inverse.T
        symbols = values.round().nan_to_num()
        beyond = symbols.abs().amax(1) > LARGEST_SYMBOL
        symbols = symbols.clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL)
        latents = (torch.ldexp(symbols @ self._map.T, self._exponents) + self._mean).float()
        latents = latents.masked_fill(beyond[:, None], torch.inf)
        quality = self._fitter.quality(latents, targets, weights)
        everywhere = None if weights is None else self._fitter.quality(latents, targets)
        finite = fitted.finite & (torch.isfinite(quality) | beyond)
        stored = Stored(symbols.to(torch.int32), None)
        return replace(fitted, latents=latents, psnr=quality, finite=finite, stored=stored, psnr_everywhere=everywhere)

    def quality(
        self,
        latents: Float[Tensor, "batch latent"],
        targets: Float[Tensor, "batch point channel"],
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """As the fitter's."""
        return self._fitter.quality(latents, targets, weights)
