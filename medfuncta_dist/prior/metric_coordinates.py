"""The prior's coordinates: principal components of the training latents in the network's metric, with unit variances.

z = (φ − m) A has mean 0 and unit variances over the training scans; the first numbers are those that the images vary
most along. z times ``deviations`` is φ's place in the metric: distances there are those of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError

NEGLIGIBLE = 1e-9
"""Of the largest: directions of the metric, and of the latents' variance in it, that float32 cannot tell from none."""
SCANS_PER_NUMBER = 4
"""Training scans for each number, at least: with fewer, held-out scans lie far beyond the variances that these have."""


@dataclass(frozen=True)
class MetricCoordinates:
    """R numbers in place of a latent's P. Float32."""

    mean: Float[Tensor, " latent"]
    into: Float[Tensor, "latent number"]
    """A."""
    back: Float[Tensor, "number latent"]
    """φ = m + z times this: what R numbers leave out of φ is the mean's."""
    deviations: Float[Tensor, " number"]
    """Of each number in the metric, falling: root mean square change of an image's values."""

    @classmethod
    def of(
        cls, latents: Float[Tensor, "scan latent"], metric: Float[np.ndarray, "latent latent"], numbers: int
    ) -> MetricCoordinates:
        """Of training latents, in the metric of images (``latents/image_curvature.py``): at most ``numbers``, and a
        quarter as many as there are scans. MedfunctaError where all latents are alike."""
        mean = latents.double().mean(0)
        centred = latents.double() - mean
        covariance = centred.T @ centred / max(1, len(latents) - 1)
        weights, axes = torch.linalg.eigh(torch.from_numpy(metric))
        roots = weights.clamp(min=float(weights.max()) * NEGLIGIBLE).sqrt()
        half = axes * roots  # half halfᵀ is the metric
        variances, directions = torch.linalg.eigh(half.T @ covariance @ half)
        variances, directions = variances.flip(0), directions.flip(1)
        numbers = min(numbers, max(1, len(latents) // SCANS_PER_NUMBER))
        kept = min(numbers, int((variances > NEGLIGIBLE * variances[0]).sum()))
        if not kept or not bool(torch.isfinite(variances).all()) or float(variances[0]) <= 0:
            do = "train the network longer; the report shows what its latents distinguish"
            raise MedfunctaError("the training scans' latents do not differ", do=do)
        deviations, directions = variances[:kept].sqrt(), directions[:, :kept]
        into, back = half @ directions / deviations, deviations[:, None] * (directions.T @ (axes / roots).T)
        return cls(mean.float(), into.float(), back.float(), deviations.float())

    def whitened(self, latents: Float[Tensor, "scan latent"]) -> Float[Tensor, "scan number"]:
        """z of latents."""
        return (latents - self.mean) @ self.into

    def latents(self, whitened: Float[Tensor, "scan number"]) -> Float[Tensor, "scan latent"]:
        """Latents of z."""
        return self.mean + whitened @ self.back

    def tensors(self) -> dict[str, Tensor]:
        """By name, as files hold them."""
        return {f"coordinates.{name}": getattr(self, name).contiguous() for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> MetricCoordinates:
        """The inverse. ValueError where a tensor is missing, or their sizes do not belong together."""
        try:
            found = cls(*(tensors[f"coordinates.{name}"] for name in cls.__dataclass_fields__))
            latent, number = found.into.shape
        except KeyError as error:
            raise ValueError(f"there is no tensor {error}") from None
        sizes = [tuple(t.shape) for t in (found.mean, found.back, found.deviations)]
        if sizes != [(latent,), (number, latent), (number,)] or any(t.dtype != torch.float32 for t in tensors.values()):
            raise ValueError("the coordinates' sizes do not belong together")
        return found
