"""The section ``field`` of the run file: the architecture of the shared network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medfuncta_dist.config.keys import OF_BASIS, OF_SIREN, Added, Meaning
from medfuncta_dist.config.section import PositiveFloat, PositiveInt, Section

MOST_FEATURES = 8192
"""That a basis field has without being asked: 3 GiB when its training ends, a minute per outer step on two cores."""


def default_features(latent: int, values: int) -> int:
    """F of a basis field whose scans have so many values, where nobody says how many."""
    return max(latent, min(4 * latent, 3 * values // 4, MOST_FEATURES))


class FieldSection(Section):
    """The shared network. ω is either a linear schedule (two ends) or a list for all K-1 sine layers."""

    MEANING: ClassVar = Meaning(public=True)

    kind: Annotated[Literal["siren", "basis"], Added("siren")] = "siren"
    """``siren``: as published, a latent shifts the phases of sine layers, and is found by steps. ``basis``: a latent
    weights functions that all scans share, and is found exactly by one matrix product; keeps more per number, and fits
    a thousand times faster."""
    layers: Annotated[int, Field(ge=3)] = 15
    """K, the number of layers, including the last (linear) one."""
    hidden: PositiveInt = 256
    """L, the width of every hidden layer."""
    latent: PositiveInt = 2048
    """P, the size of a scan's latent. A basis field's is at most points times channels of a scan."""
    features: Annotated[PositiveInt | None, Added(None), OF_BASIS] = None
    """F, functions per channel that a basis field is trained with; its latent's P numbers are then the best ones in
    their span. Default: four times ``latent``, within 8192 (memory and time grow with F²) and three quarters of the
    values of a scan (from all of them on, training has nothing to learn), but never fewer than ``latent``. Null in a
    run's frozen file: as many as ``latent``."""
    omega_first: PositiveFloat = 20.0
    """ω of the first layer."""
    omega_last: PositiveFloat = 400.0
    """ω that the schedule reaches at layer K; it rises linearly."""
    omegas: list[PositiveFloat] | None = None
    """ω of every sine layer, instead of the two ends."""
    residual: Annotated[bool, OF_SIREN] = True
    """Add each sine layer's input to its output (the public code does, the paper's formula does not)."""
    modulate_first: Annotated[bool, OF_SIREN] = False
    """Let the latent shift the first layer too (the public code does)."""

    @model_validator(mode="after")
    def _omegas(self) -> FieldSection:
        if self.omegas is not None and len(self.omegas) != self.layers - 1:
            raise ValueError(f"omegas has {len(self.omegas)} entries, expected layers - 1 = {self.layers - 1}")
        return self

    @model_validator(mode="after")
    def _features(self) -> FieldSection:
        if self.kind == "basis" and self.feature_count < self.latent:
            raise ValueError(
                f"{self.features} features cannot give {self.latent} numbers: leave out features, or lower latent"
            )
        return self

    @property
    def feature_count(self) -> int:
        """F: as given, or as many as a latent has numbers."""
        return self.features or self.latent
