"""Which values of a volume count, what takes the place of the others, and what a mask costs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt, gaussian_filter

COARSE = 4
"""Voxels along each side of a block of the stored mask."""
BLURS = (8.0, 4.0, 2.0, 1.0)
"""Standard deviations (voxels) of the blurs that smooth the fill, one after the other."""


def largest_component(values: Float[np.ndarray, "slice row column"]) -> Bool[np.ndarray, "slice row column"]:
    """Everything above Otsu's threshold that is connected to the largest piece."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    pieces = label(values > threshold_otsu(values))
    sizes = np.bincount(pieces.ravel())
    return np.asarray(pieces == 1 + sizes[1:].argmax())


def smooth_fill(
    values: Float[np.ndarray, "slice row column"], mask: np.ndarray
) -> Float[np.ndarray, "slice row column"]:
    """The values inside; outside, the nearest of them, blurred."""
    if not mask.any():
        return np.zeros_like(values)
    nearest = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    filled = values[tuple(nearest)]
    for width in BLURS:
        filled = np.where(mask, values, gaussian_filter(filled, width))
    return np.asarray(filled, np.float32)


def stored(mask: Bool[np.ndarray, "slice row column"]) -> bytes:
    """A mask in blocks, a bit each: set where any voxel of the block is in the mask."""
    blocks = _blocks(mask)
    return zlib.compress(np.packbits(blocks).tobytes(), 9)


def restored(data: bytes, shape: Sequence[int]) -> Bool[np.ndarray, "slice row column"]:
    """The mask that a decoder has: that of the blocks."""
    grid = [-(-side // COARSE) for side in shape]
    bits = np.unpackbits(np.frombuffer(zlib.decompress(data), np.uint8))[: int(np.prod(grid))]
    blocks = bits.astype(bool).reshape(grid)
    for axis in range(3):
        blocks = blocks.repeat(COARSE, axis)
    return blocks[tuple(slice(0, side) for side in shape)]


def _blocks(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, [(0, -side % COARSE) for side in mask.shape])
    grid = [n for side in padded.shape for n in (side // COARSE, COARSE)]
    return padded.reshape(grid).any((1, 3, 5))
