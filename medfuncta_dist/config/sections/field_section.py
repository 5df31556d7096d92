"""The section ``field`` of the run file: the architecture of the shared network."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from medfuncta_dist.config.keys import Meaning
from medfuncta_dist.config.section import PositiveFloat, PositiveInt, Section


class FieldSection(Section):
    """The latent-modulated SIREN. ω is either a linear schedule (two ends) or a list for all K-1 sine layers."""

    MEANING: ClassVar = Meaning(public=True)

    layers: Annotated[int, Field(ge=3)] = 15
    """K, the number of layers, including the last (linear) one."""
    hidden: PositiveInt = 256
    """L, the width of every hidden layer."""
    latent: PositiveInt = 2048
    """P, the size of a scan's latent."""
    omega_first: PositiveFloat = 20.0
    """ω of the first layer."""
    omega_last: PositiveFloat = 400.0
    """ω that the schedule reaches at layer K; it rises linearly."""
    omegas: list[PositiveFloat] | None = None
    """ω of every sine layer, instead of the two ends."""
    residual: bool = True
    """Add each sine layer's input to its output (the public code does, the paper's formula does not)."""
    modulate_first: bool = False
    """Let the latent shift the first layer too (the public code does)."""

    @model_validator(mode="after")
    def _omegas(self) -> FieldSection:
        if self.omegas is not None and len(self.omegas) != self.layers - 1:
            raise ValueError(f"omegas has {len(self.omegas)} entries, expected layers - 1 = {self.layers - 1}")
        return self
