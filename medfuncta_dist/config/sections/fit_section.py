"""The section ``fit`` of the run file: how latents are fitted and stored."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medfuncta_dist.config.keys import Key, Meaning, WithinRun
from medfuncta_dist.config.section import NaturalInt, PositiveFloat, PositiveInt, Ratio, Section, Split


class Fit(Section):
    """Latents for every scan, the shared network frozen."""

    MEANING: ClassVar = Meaning(in_fit_digest=True, public=True)

    method: Literal["sgd", "momentum", "gauss-newton"] = "gauss-newton"
    """``sgd``: plain gradient steps, as published. ``momentum``: with a heavy ball. ``gauss-newton``: each scan's own
    curvature decides direction and length of its steps (Levenberg-Marquardt): better latents in a fifth of the
    steps."""
    steps: PositiveInt = 10
    """H, steps from φ = 0."""
    rate: PositiveFloat | None = None
    """Step size of sgd and momentum. Default: the network's learned rates where it has them, else
    ``meta.inner_rate``."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of each step that the next one repeats (momentum)."""
    damping: PositiveFloat = 1.0
    """λ that gauss-newton begins with, relative to a scan's mean curvature. Each scan's own then follows how close its
    steps come to the improvement that they promise."""
    curvature_ratio: Ratio = 0.309
    """Share of a step's coordinates, evenly spread, that gauss-newton takes its curvature from. Not a simple fraction:
    points a whole number apart would lie in columns."""
    selection_ratio: Ratio = 1.0
    """γ while fitting; 1 uses every coordinate. gauss-newton sees the same evenly spread ones at every step, the others
    draw them anew."""
    full_steps: NaturalInt = 0
    """The last steps, which use every coordinate whatever selection_ratio is."""
    closed_form: bool = True
    """Take the first step from the field's Jacobian at φ = 0, which is the same for all scans: it sees every coordinate
    at almost no cost. Needs the Jacobian in memory."""
    rescale: Ratio | None = None
    """Multiply each scan's step by the ratio of two gradients' sizes, one of them on this share of the coordinates, as
    the published code does. Null: do not."""
    target_psnr: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """A scan this good (dB) is not fitted any further."""
    batch: PositiveInt = 256
    """Scans fitted at once."""
    scans_per_task: PositiveInt = 1024
    """Scans per Ray task and per table part."""
    min_psnr: float = 20.0
    """A scan reconstructed worse than this (dB) is stored and flagged."""
    storage_type: Literal["float32", "float16", "int8"] = "float32"
    """Type of stored latents; int8 has one scale per scan. PSNR in the table is the stored latent's."""
    splits: Annotated[list[Split] | None, Key(within_run=WithinRun.FREE, in_fit_digest=False)] = None
    """Splits to fit: which scans have a latent, not what it is. Default: every split of the snapshot."""

    @model_validator(mode="after")
    def _steps(self) -> Fit:
        if self.full_steps > self.steps:
            raise ValueError(f"full_steps is {self.full_steps}, more than all of the {self.steps} steps")
        return self
