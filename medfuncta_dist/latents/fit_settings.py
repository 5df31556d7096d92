"""How latents are fitted, as the compute core takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medfuncta_dist.latents.fit_steps import Method
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.meta.inner_rates import Rate
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.sweeps.chunks import Chunks


@dataclass(frozen=True)
class FitSettings:
    """How latents are fitted. Contexts come from ``seed`` and the step, so every scan of a data set sees the same.

    ``chunks`` bounds the activations (default: ``Chunks.sized``); with ``arithmetic`` (default: ``Arithmetic.best``) it
    decides the last bits: record both with the latents.
    """

    steps: int = 20
    rate: Rate = 1e-2
    """Step size of ``sgd`` and ``momentum``; ``gauss-newton`` needs none."""
    selection_ratio: float = 1.0
    """Share of the points that a step sees: drawn anew for each step; for ``gauss-newton``, evenly spread and the same
    for all."""
    seed: int = 0
    chunks: Chunks | None = None
    arithmetic: Arithmetic | None = None
    block: int | None = None
    """Scans that are fitted together, from their first step to their last; None: as many as a chunk has."""
    method: Method | Literal["exact"] = "sgd"
    """How a SIREN's latents are improved. A basis field's are solved for, which is ``exact``, whatever this says."""
    full_steps: int = 0
    """Number of last steps that see all points, whatever ``selection_ratio``."""
    momentum: float = 0.5
    damping: float = 1.0
    curvature_ratio: float = 1.0
    """Share of a step's points that ``gauss-newton`` takes its curvature from."""
    closed_form: bool = False
    """The first step sees all points, and takes its gradient from the network's Jacobian at φ = 0: the same numbers up
    to rounding, at the cost of one matrix product."""
    rescale: float | None = None
    """The published code's rescaling: each scan's step times ‖∇_sub‖/‖∇‖, ∇_sub on a second context of this ratio."""
    target_psnr: float | None = None
    """A scan that is this good (dB) moves no further. Seen only at steps on all points."""
    ridge: float = 1e-6
    """λ of a basis field's solve, relative to the mean diagonal of its Gram matrix."""
    keep: int | None = None
    """How many of a basis field's numbers are fitted and stored, the first ones; None for all."""
    storage_type: StorageType = "float32"
