"""Context sets: the random fraction γ of the coordinates that one inner step sees.

They depend on (seed, outer step, inner step) only, never on rank, device or worker, and all scans of a global batch
share them, as published. So a resumed or resharded run sees the same ones, and the backward recursion can draw them
again instead of keeping them.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor


def context_size(points: int, ratio: float) -> int:
    """Number of points of a context set: round(γN), at least one."""
    return max(1, round(ratio * points))


def context_indices(
    points: int, ratio: float, *, seed: int, outer_step: int, inner_step: int
) -> Int[Tensor, " context"]:
    """Sorted indices (CPU, int64) of one context set out of ``points`` coordinates, without repetition.

    Sorted, because a set has no order, gathers are faster, and γ = 1 becomes the identity.
    """
    generator = torch.Generator().manual_seed(_generator_seed(seed, outer_step, inner_step))
    chosen = torch.randperm(points, generator=generator)[: context_size(points, ratio)]
    return chosen.sort().values


def context_sets(points: int, ratio: float, steps: int, *, seed: int, outer_step: int) -> list[Int[Tensor, " context"]]:
    """The context sets of all inner steps of one outer step."""
    return [
        context_indices(points, ratio, seed=seed, outer_step=outer_step, inner_step=inner_step)
        for inner_step in range(steps)
    ]


def _generator_seed(seed: int, outer_step: int, inner_step: int) -> int:
    """63 bits that no two of (seed, outer step, inner step) share but by accident."""
    text = f"context {seed} {outer_step} {inner_step}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
