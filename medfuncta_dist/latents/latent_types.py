"""Latents as they are stored: float32, float16, or int8 with one scale per scan.

Where the numbers of a latent have deviations of their own over a data set (``deviations``), int8 counts each in units
of its deviation: the first principal number may be a hundred times as large as the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

StorageType = Literal["float32", "float16", "int8"]
LARGEST_INT8 = 127


SMALLEST_DEVIATION = 1e-6
"""Relative to the largest: a number that never varied in training may vary in a scan."""


@dataclass(frozen=True)
class Stored:
    """What a table holds of a batch: numbers, and for int8 what they are multiples of: each scan's scale, times each
    number's deviation where it has one."""

    numbers: Shaped[Tensor, "batch latent"]
    scales: Float[Tensor, " batch"] | None
    deviations: Float[Tensor, " latent"] | None = None

    def restored(self) -> Float[Tensor, "batch latent"]:
        """The latents that decoding uses."""
        if self.scales is not None:
            scaled = self.numbers * self.scales[:, None]
            return scaled if self.deviations is None else scaled * self.deviations
        return self.numbers.float() if self.numbers.dtype == torch.float16 else self.numbers


def store(
    latents: Float[Tensor, "batch latent"],
    storage_type: StorageType,
    deviations: Float[Tensor, " latent"] | None = None,
) -> Stored:
    """Round latents to the type. Values that are not finite, or exceed float16, are not finite afterwards.

    int8: the largest of a scan's numbers, relative to its deviation, becomes ±127. Rounding halves the size of float16
    and costs less than 0.1 dB (``benchmarks/fit_throughput.py``).
    """
    if storage_type != "int8":
        return Stored(latents.half() if storage_type == "float16" else latents, None)
    if deviations is not None:
        deviations = deviations.clamp(min=SMALLEST_DEVIATION * float(deviations.max()))
        latents = latents / deviations
    scales = latents.abs().amax(1) / LARGEST_INT8
    steps = (latents / scales.clamp(min=torch.finfo(scales.dtype).tiny)[:, None]).round()
    numbers = steps.nan_to_num().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8)
    return Stored(numbers, scales, deviations)
