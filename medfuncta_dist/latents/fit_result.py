"""What fitting a batch gives, whatever the kind of field."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from medfuncta_dist.latents.latent_types import Stored


@dataclass(frozen=True)
class FitResult:
    """One row per scan: its latent as decoding will see it, the PSNR (dB) of that, whether all of it is finite, the
    steps it took, what a table stores, and how many of the steps had no solution and left the latent where it was.

    Where points had weights, ``psnr`` is that of the weighted mean squared error, the PSNR inside a mask: at its cap
    for a scan without any weight.
    """

    latents: Float[Tensor, "batch latent"]
    psnr: Float[Tensor, " batch"]
    finite: Bool[Tensor, " batch"]
    steps: Int[Tensor, " batch"]
    stored: Stored
    unsolved: Int[Tensor, " batch"]
    psnr_everywhere: Float[Tensor, " batch"] | None = None
    """Of all points alike, where there were weights. NaN where a target is not finite, which only a point of weight 0
    may be."""

    @property
    def psnr_inside(self) -> Float[Tensor, " batch"] | None:
        """``psnr`` where there were weights."""
        return None if self.psnr_everywhere is None else self.psnr
