"""What storing a basis field's latents costs, predicted from its network; and the coarsest storage within a promise.

Its functions are orthonormal on the grid, so what storing changes in a latent, squared and summed, is what it adds to
the mean squared error of the scan. Predictions are for scans like those of training, whose numbers are taken to be
normal with the network's variances. Pure, and in float64: every machine finds the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.latents.latent_types import LARGEST_INT8, StorageType, int8_units

BYTES: dict[StorageType, int] = {"float32": 4, "float16": 2, "int8": 1}
"""Per number."""
SCALE_BYTES = 4
"""Per scan, of int8."""
HALF_RELATIVE = 2**-20 / 12 * 3 / (8 * math.log(2))
"""Mean squared relative error of float16: its step is 2⁻¹⁰ of a power of two, and leading digits are spread evenly by
their logarithm."""
FULLEST = 1e-10
"""Mean squared error at 100 dB, above which no PSNR is told: below it, a loss in dB means nothing."""
SCANS_PER_NUMBER = 4
"""Training scans from which variances tell what the last numbers are worth, and as many as a network is made from where
there are so many (``SCANS_PER_FEATURE``). With fewer scans than numbers, leaving out
half of them cost 2 dB where 0.2 were predicted (docs/decisions/fitting.md)."""
GRID_POINTS = 256
"""Of the integral over a scan's largest number: 0.1 % of its value."""


@dataclass(frozen=True)
class Spectrum:
    """What a network tells of its latents."""

    variances: Float[Tensor, " latent"]
    """Of each number over the training scans, in falling order."""
    residual: float
    """Mean squared error that all numbers leave of these."""
    scans: int
    """How many these were; 0 where the network does not say."""

    @property
    def latent(self) -> int:
        """P."""
        return len(self.variances)

    @property
    def tells_last_numbers(self) -> bool:
        """Whether there were scans enough to say what leaving out numbers costs."""
        return self.scans >= SCANS_PER_NUMBER * self.latent


@dataclass(frozen=True)
class Choice:
    """A way to store latents; ``keep`` is None for all numbers, ``loss`` the predicted one in dB."""

    storage_type: StorageType
    keep: int | None
    loss: float


def predicted_loss(spectrum: Spectrum, storage_type: StorageType, keep: int | None = None) -> float | None:
    """Loss of PSNR in dB from storing the first ``keep`` numbers (None: all) in this type.

    Of the mean squared error of all scans together; a mean over scans in dB is within a few hundredths of it. New scans
    that are represented worse than the training scans lose less. None where the network cannot tell.
    """
    kept = spectrum.latent if keep is None else keep
    if storage_type not in BYTES:
        return None  # curved: its step was chosen by the loss, on training scans
    if kept < spectrum.latent and not spectrum.tells_last_numbers:
        return None
    return float(_losses(spectrum, storage_type)[kept - 1])


def coarsest(promise_db: float, spectrum: Spectrum) -> Choice:
    """The storage of fewest bytes whose predicted loss is within the promise; float32 of all numbers loses nothing.

    Numbers are left out only where there were training scans enough to predict what that costs.
    """
    choices = [choice for one in BYTES if (choice := _fewest(promise_db, spectrum, one)) is not None]
    return min(choices, key=lambda choice: _bytes(choice, spectrum.latent))


def _fewest(promise_db: float, spectrum: Spectrum, storage_type: StorageType) -> Choice | None:
    """The fewest numbers of a type that are within the promise; None if not even all are."""
    losses = _losses(spectrum, storage_type)
    first = 1 if spectrum.tells_last_numbers else spectrum.latent
    for kept in range(first, spectrum.latent + 1):
        if float(losses[kept - 1]) <= promise_db:
            return Choice(storage_type, None if kept == spectrum.latent else kept, float(losses[kept - 1]))
    return None


def _bytes(choice: Choice, latent: int) -> int:
    return BYTES[choice.storage_type] * (choice.keep or latent) + SCALE_BYTES * (choice.storage_type == "int8")


def _losses(spectrum: Spectrum, storage_type: StorageType) -> Float[Tensor, " latent"]:
    """Predicted loss in dB of keeping 1, 2 … P numbers."""
    added = rounding(spectrum.variances, storage_type) + left_out(spectrum.variances)
    return 10 * torch.log10(1 + added / max(spectrum.residual, FULLEST))


def left_out(variances: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Mean squared error that keeping 1, 2 … P numbers adds: the variances of the others, summed."""
    values = variances.double().cpu()
    return torch.cat([values.flip(0).cumsum(0).flip(0)[1:], values.new_zeros(1)])


def rounding(variances: Float[Tensor, " latent"], storage_type: StorageType) -> Float[Tensor, " latent"]:
    """Mean squared error that rounding the first 1, 2 … P numbers to a type adds."""
    values = variances.double().cpu()
    if storage_type == "float32":
        return torch.zeros_like(values)  # as accurate as the fit itself
    if storage_type == "float16":
        return values.cumsum(0) * HALF_RELATIVE
    units = int8_units(variances.double().cpu())
    if units is None:
        return torch.zeros_like(values)
    return added_by_int8(_largest_squares(values / units.square()).sqrt() / LARGEST_INT8, units.square().cumsum(0))


def added_by_int8(scales: Float[Tensor, " any"], squares: Float[Tensor, " #any"]) -> Float[Tensor, " any"]:
    """Mean squared error that int8 adds to scans of these scales; ``squares``: of their units, summed.

    A step is scale times unit, and rounding errors are spread evenly over it: step² / 12. A tenth too much, at forty
    numbers, because the one that decides the scale is not rounded.
    """
    return scales.double().square() * squares.double() / 12


def _largest_squares(variances: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """E max_{i ≤ p} x_i² of independent normal x_i, for p = 1 … P: the integral of P(max > t) over t."""
    largest = variances.max()
    t = torch.logspace(-4, 2, GRID_POINTS, dtype=torch.float64) * largest
    below = torch.special.erf((t / (2 * variances[:, None])).sqrt()).cumprod(0)
    return t[0] + torch.trapezoid(1 - below, t, dim=1)
