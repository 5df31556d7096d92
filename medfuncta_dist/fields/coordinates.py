"""The coordinate grid: where a field is sampled. Resolution enters only here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import RunFileError


def grid(
    shape: Sequence[int], device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "point coord"]:
    """Coordinates of every point of a regular grid in [-1, 1]^C, one row per point.

    Both ends of each axis are included (align-corners), axes are in ``ij`` order and the last axis runs fastest, as in
    an array's own memory. Raises RunFileError for an axis of fewer than two points, which has no extent.
    """
    if not shape or min(shape) < 2:
        raise RunFileError(
            f"a grid needs at least two points on each axis, got shape {list(shape)}",
            do="give every axis of the shape at least 2 points",
        )
    axes = [torch.linspace(-1.0, 1.0, n, device=device, dtype=dtype) for n in shape]
    mesh = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(mesh, dim=-1).reshape(-1, len(shape))
