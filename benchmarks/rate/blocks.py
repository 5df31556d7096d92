"""Volumes cut into blocks and joined again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def grid_of(shape: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """Blocks along each axis; the last ones stick out where the sides do not divide."""
    return tuple(-(-side // b) for side, b in zip(shape, block, strict=True))


def cut(values: np.ndarray, block: Sequence[int]) -> Float[np.ndarray, "block value"]:
    """Blocks in order; those that stick out repeat the last values."""
    grid = grid_of(values.shape, block)
    ends = [(0, g * b - side) for g, b, side in zip(grid, block, values.shape, strict=True)]
    padded = np.pad(values, ends, mode="edge").reshape([n for pair in zip(grid, block, strict=True) for n in pair])
    return np.ascontiguousarray(padded.transpose(0, 2, 4, 1, 3, 5)).reshape(-1, math.prod(block))


def joined(blocks: Float[np.ndarray, "block value"], shape: Sequence[int], block: Sequence[int]) -> np.ndarray:
    """The volume of this shape that was cut."""
    grid = grid_of(shape, block)
    whole = blocks.reshape(*grid, *block).transpose(0, 3, 1, 4, 2, 5)
    whole = whole.reshape([g * b for g, b in zip(grid, block, strict=True)])
    return np.ascontiguousarray(whole[tuple(slice(0, side) for side in shape)])


def needed(mask: np.ndarray | None, shape: Sequence[int], block: Sequence[int]) -> Bool[np.ndarray, " block"]:
    """Which blocks hold anything that counts."""
    if mask is None:
        return np.ones(math.prod(grid_of(shape, block)), bool)
    return np.asarray(cut(mask, block).any(1))


def spread(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Up to ``most`` places of so many, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)
