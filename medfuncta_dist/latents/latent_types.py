"""Latents as they are stored: float32, float16, int8 with one scale per scan, or curved (``curved/``).

Where a latent's numbers vary unequally over a data set, int8 counts each in a unit of its own (``int8_units``): the
first principal number may be a hundred times as large as the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

StorageType = Literal["float32", "float16", "int8", "curved"]
LARGEST_INT8 = 127


SMALLEST_VARIANCE = 1e-12
"""Relative to the largest: a number that never varied in training may vary in a scan."""


@dataclass(frozen=True)
class Stored:
    """What a table holds of a batch: numbers, and for int8 what they are multiples of: each scan's scale, times each
    number's unit where it has one. Curved numbers are symbols, int32, which only their tables restore."""

    numbers: Shaped[Tensor, "batch latent"]
    scales: Float[Tensor, " batch"] | None
    units: Float[Tensor, " latent"] | None = None

    def restored(self) -> Float[Tensor, "batch latent"]:
        """The latents that decoding uses."""
        if self.scales is not None:
            scaled = self.numbers * self.scales[:, None]
            return scaled if self.units is None else scaled * self.units
        return self.numbers.float() if self.numbers.dtype == torch.float16 else self.numbers


def int8_units(variances: Float[Tensor, " latent"] | None, keep: int | None = None) -> Float[Tensor, " latent"] | None:
    """What int8 counts the first ``keep`` numbers in: the root of each one's standard deviation.

    In units of the deviation itself, a number that hardly varied in training decides the scale of every scan in which
    it does: where training scans are fewer than numbers, that cost 1.6 dB. Equal units lose the small numbers. With the
    root between them int8 costs less than 0.01 dB in both cases (docs/decisions/fitting.md). None where nothing varies.
    """
    if variances is None or not float(variances.max()) > 0:
        return None
    # Two roots, for each is rounded correctly: the units are the same on every machine.
    units: Tensor = variances[:keep].clamp(min=SMALLEST_VARIANCE * float(variances.max())).sqrt().sqrt()
    return units


def store(
    latents: Float[Tensor, "batch latent"],
    storage_type: StorageType,
    units: Float[Tensor, " latent"] | None = None,
) -> Stored:
    """Round latents to the type. Values that are not finite, or exceed float16, are not finite afterwards.

    int8: the largest of a scan's numbers, relative to its unit, becomes ±127. Rounding halves the size of float16
    and costs less than 0.1 dB (``benchmarks/fit_throughput.py``). Curved latents need tables (``CurvedFitter``).
    """
    assert storage_type != "curved"
    if storage_type != "int8":
        return Stored(latents.half() if storage_type == "float16" else latents, None)
    if units is not None:
        latents = latents / units
    scales = latents.abs().amax(1) / LARGEST_INT8
    steps = (latents / scales.clamp(min=torch.finfo(scales.dtype).tiny)[:, None]).round()
    numbers = steps.nan_to_num().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8)
    return Stored(numbers, scales, units)
