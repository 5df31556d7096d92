"""The key ``data.patches`` of the run file: scans at their own resolution, as grids of patches."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from medfuncta_dist.config.section import NaturalInt, Section


class Patches(Section):
    """Keep every scan at its own number of points, and represent it by patches of ``size`` points, each by a latent of
    its own. Nothing is resampled but where ``data.spacing`` asks for a common distance of points."""

    size: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1, max_length=3)]
    """Points of a patch along each axis: what ``shape`` is to scans without patches."""
    overlap: NaturalInt | list[NaturalInt] = 0
    """Points that neighbouring patches share along each axis, at most half of ``size``. Decoded scans are blended over
    them."""

    @model_validator(mode="after")
    def _fits(self) -> Patches:
        if isinstance(self.overlap, list) and len(self.overlap) != len(self.size):
            raise ValueError(f"overlap has {len(self.overlap)} numbers, but size has {len(self.size)} axes")
        if any(2 * shared > n for shared, n in zip(self.overlaps, self.size, strict=True)):
            raise ValueError(f"overlap is at most half of size, got {self.overlap} for {self.size}")
        return self

    @property
    def overlaps(self) -> tuple[int, ...]:
        """Overlap per axis."""
        return tuple(self.overlap) if isinstance(self.overlap, list) else (self.overlap,) * len(self.size)
