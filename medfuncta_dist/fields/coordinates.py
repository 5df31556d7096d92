"""The coordinate grid: where a field is sampled. Resolution enters only here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import RunFileError

Region = Sequence[slice | tuple[int, int] | None]
"""Per axis of a shape: which of its points, as a slice or (start, stop); None for all."""


def grid(
    shape: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    region: Region | None = None,
) -> Float[Tensor, "point coord"]:
    """Coordinates of every point of a regular grid in [-1, 1]^C, one row per point; with ``region``, of those in it.

    Both ends of each axis are included (align-corners), axes are in ``ij`` order and the last axis runs fastest, as in
    an array's own memory. Raises RunFileError for an axis of fewer than two points, which has no extent.
    """
    if not shape or min(shape) < 2:
        raise RunFileError(
            f"a grid needs at least two points on each axis, got shape {list(shape)}",
            do="give every axis of the shape at least 2 points",
        )
    axes = [torch.linspace(-1.0, 1.0, n, device=device, dtype=dtype) for n in shape]
    if region is not None:
        axes = [axis[r.start : r.stop : r.step] for axis, r in zip(axes, region_points(shape, region), strict=True)]
    return points_of(axes)


def points_of(axes: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "point coord"]:
    """Coordinates of every point of the grid with these along each axis, in the same order."""
    mesh = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(mesh, dim=-1).reshape(-1, len(axes))


def region_points(shape: Sequence[int], region: Region) -> list[range]:
    """The points of each axis that are in a region. RunFileError for one that is empty, backwards or does not fit."""
    if len(region) != len(shape):
        what = f"a region of {len(region)} axes does not fit a grid of {len(shape)}"
        raise RunFileError(what, where="region", do="give one slice or (start, stop) per axis, or None for all of it")
    parts = [slice(None) if p is None else p if isinstance(p, slice) else slice(*p) for p in region]
    points = [range(*part.indices(n)) for part, n in zip(parts, shape, strict=True)]
    for axis, (part, found, n) in enumerate(zip(parts, points, shape, strict=True)):
        ends = [end for end in (part.start, part.stop) if end is not None]
        if not found or found.step < 1 or any(not -n <= end <= n for end in ends):
            what = f"axis {axis} of {n} points has no region from {part.start} to {part.stop}"
            raise RunFileError(what, where="region", do=f"name points from 0 to {n}, the end excluded")
    return points
