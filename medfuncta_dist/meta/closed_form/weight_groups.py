"""Scans whose points count alike, put together: they share a Gram matrix and its factor (docs/method.md, 8).

Equal means equal to the bit: masks that are the same, overlap windows of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

KEPT_BYTES = 2**28
"""Of the float64 matrices of all groups that are computed together; a group has three of F² numbers at its peak."""
MATRICES = 3


@dataclass(frozen=True)
class Group:
    """Some consecutive scans of a fit."""

    scans: slice
    count: int


def groups_of(weights: Float[Tensor, "scan point"] | None, scans: int) -> list[Group]:
    """Runs of consecutive scans with equal weights; one group where no point has a weight."""
    if weights is None:
        return [Group(slice(None), scans)]
    new = (weights[1:] != weights[:-1]).any(1).nonzero().flatten() + 1
    bounds = [0, *new.tolist(), scans]
    return [Group(slice(a, b), b - a) for a, b in pairwise(bounds) if b > a]


def within(weights: Float[Tensor, "scan point"], features: int) -> tuple[Int[Tensor, " scan"], list[slice]]:
    """An order of the scans in which equal weights follow each other, and its cuts into parts whose matrices have room.

    No group is cut. There is at least one part, and each has a group.
    """
    patterns = torch.unique(weights, dim=0, return_inverse=True)[1]
    order = patterns.argsort(stable=True)
    most = max(1, KEPT_BYTES // (MATRICES * 8 * features**2))
    groups = groups_of(weights[order], len(weights))
    firsts = [group.scans.start for group in groups[::most]] or [0]
    return order, [slice(a, b) for a, b in zip(firsts, [*firsts[1:], len(weights)], strict=True)]
