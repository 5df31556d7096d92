"""Which points of a scan's field of view are decoded, and where these lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import Region, region_points


@dataclass(frozen=True)
class DecodedGrid:
    """A grid of ``shape`` points over the field of view of a scan of ``packed`` points, or a region of that grid."""

    packed: tuple[int, ...]
    shape: tuple[int, ...]
    region: tuple[tuple[int, int], ...] | None
    """Per axis (start, stop) in points of ``shape``; None for all."""

    @classmethod
    def of(cls, packed: Sequence[int], shape: Sequence[int] | None, region: Region | None) -> DecodedGrid:
        """``shape`` None: as packed. RunFileError for another number of axes, and for a region that does not fit."""
        target = tuple(shape or packed)
        if len(target) != len(packed) or any(m != n and min(m, n) < 2 for n, m in zip(packed, target, strict=True)):
            raise RunFileError(
                f"a scan of shape {list(packed)} cannot be decoded at {list(target)}",
                where="--shape",
                do=f"give {len(packed)} numbers of at least 2",
            )
        points = None if region is None else tuple((p.start, p.stop) for p in region_points(target, region))
        return cls(tuple(packed), target, points)

    @property
    def size(self) -> tuple[int, ...]:
        """Points per axis of what is decoded."""
        return self.shape if self.region is None else tuple(stop - start for start, stop in self.region)

    @property
    def interpolates(self) -> bool:
        """Whether there are more points along an axis than the scan has: what is between those, no scanner has seen."""
        return any(m > n for n, m in zip(self.packed, self.shape, strict=True))

    def require_values(self, channels: int, most: int) -> None:
        """RunFileError for more values than that."""
        if math.prod(self.size) * channels > most:
            what = f"a scan of shape {list(self.size)} has more than {most} values"
            raise RunFileError(what, where="--shape", do="give a smaller one, or a region of it")

    def spacing(self, spacing: Sequence[float]) -> tuple[float, ...]:
        """From the packed scan's."""
        return resampled_spacing(spacing, self.packed, self.shape)

    def affine(self, affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
        """From the packed scan's: every point stays where it is in the world."""
        found = resampled_affine(affine, self.packed, self.shape)
        if self.region is not None:
            first = [start for start, _ in self.region]
            found = found.copy()
            found[:, 3] = found @ [*first, *[0] * (3 - len(first)), 1]
        return found

    def placed(
        self, affine: Float[np.ndarray, "4 4"] | None, spacing: Sequence[float]
    ) -> Float[np.ndarray, "4 4"] | None:
        """``affine`` of this grid. Of a scan without one: None if all of it is decoded, as it lies nowhere; a region
        lies where it is in the scan, whose first point is then the origin, ``spacing`` its packed points' (mm)."""
        if affine is None and self.region is None:
            return None
        return self.affine(spacing_affine(spacing) if affine is None else affine)


def spacing_affine(spacing: Sequence[float]) -> Float[np.ndarray, "4 4"]:
    """Of a grid of up to three axes of which nothing but the distance of its points (mm) is known."""
    return np.diag([*spacing, *[1.0] * (4 - len(spacing))])


def resampled_spacing(spacing: Sequence[float], before: Sequence[int], after: Sequence[int]) -> tuple[float, ...]:
    """Spacing of a grid with other numbers of points over the same field of view: times (n-1)/(m-1) on each axis."""
    return tuple(s * _step(n, m) for s, n, m in zip(spacing, before, after, strict=True))


def resampled_affine(
    affine: Float[np.ndarray, "4 4"], before: Sequence[int], after: Sequence[int]
) -> Float[np.ndarray, "4 4"]:
    """The affine of that grid: the first and last points of every axis stay where they are in the world."""
    scale = [_step(n, m) for n, m in zip(before, after, strict=True)]
    return affine @ np.diag([*scale, *[1.0] * (4 - len(scale))])


def _step(before: int, after: int) -> float:
    """1 where nothing changes, also along an axis of one point."""
    return 1.0 if before == after else (before - 1) / (after - 1)
