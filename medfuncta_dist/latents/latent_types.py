"""Latents as they are stored: float32, float16, or int8 with one scale per scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

StorageType = Literal["float32", "float16", "int8"]
LARGEST_INT8 = 127


@dataclass(frozen=True)
class Stored:
    """What a table holds of a batch: numbers, and for int8 the scale that each scan's numbers are multiples of."""

    numbers: Shaped[Tensor, "batch latent"]
    scales: Float[Tensor, " batch"] | None

    def restored(self) -> Float[Tensor, "batch latent"]:
        """The latents that decoding uses."""
        if self.scales is not None:
            return self.numbers * self.scales[:, None]
        return self.numbers.float() if self.numbers.dtype == torch.float16 else self.numbers


def store(latents: Float[Tensor, "batch latent"], storage_type: StorageType) -> Stored:
    """Round latents to the type. Values that are not finite, or exceed float16, are not finite afterwards.

    int8: a scan's largest number becomes ±127. Rounding halves the size of float16 and costs less than 0.1 dB
    (``benchmarks/fit_throughput.py``).
    """
    if storage_type != "int8":
        return Stored(latents.half() if storage_type == "float16" else latents, None)
    scales = latents.abs().amax(1) / LARGEST_INT8
    steps = (latents / scales.clamp(min=torch.finfo(scales.dtype).tiny)[:, None]).round()
    return Stored(steps.nan_to_num().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8), scales)
