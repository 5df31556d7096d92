"""A regular volume from slices that lie at unequal distances, or shifted against each other. Pure.

Values are interpolated linearly: within the plane where a slice is shifted, then between neighbouring slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from medfuncta_dist.scans.readers.dicom.stacks import Stack, affine_with, places_of
from medfuncta_dist.scans.readers.reader import check_size
from medfuncta_dist.scans.resample import cast

AS_IT_IS = 1e-3
"""Share of a pixel or of a distance: nearer is the same place."""


def even_slices(stack: Stack, slices: Sequence[np.ndarray]) -> tuple[np.ndarray, Float[np.ndarray, "4 4"]]:
    """(channel, slice, row, column) in the type of ``slices``, and (row, column, slice, 1) → RAS mm.

    slices: (channel, row, column) of each image of the stack, in its order. The slices of the result are at the usual
    distance of the stack's; its plane covers all of them. Outside of what was measured is the smallest value.
    """
    heights, shifts = places_of(stack)
    step = float(np.median(np.diff(heights)))
    wanted = np.arange(int(np.floor(heights[-1] / step + AS_IT_IS)) + 1) * step
    first, last = np.floor(shifts.min(axis=0) + AS_IT_IS), np.ceil(shifts.max(axis=0) - AS_IT_IS)
    channels, rows, columns = slices[0].shape
    plane = (rows + int(last[0] - first[0]), columns + int(last[1] - first[1]))
    check_size((channels, len(wanted), *plane))
    outside = float(min(piece.min() for piece in slices))
    out = np.empty((channels, len(wanted), *plane), np.result_type(*{piece.dtype for piece in slices}))
    for index, height in enumerate(wanted):
        upper = min(max(int(np.searchsorted(heights, height)), 1), len(heights) - 1)
        share = float(np.clip((height - heights[upper - 1]) / (heights[upper] - heights[upper - 1]), 0, 1))
        share = float(np.rint(share)) if abs(share - np.rint(share)) < AS_IT_IS else share
        mixed = sum(
            weight * _moved(slices[at], shifts[at] - first, plane, outside)
            for at, weight in ((upper - 1, 1 - share), (upper, share))
            if weight
        )
        out[:, index] = cast(np.asarray(mixed), out.dtype)
    return out, _affine(stack, step, first)


def _moved(piece: np.ndarray, shift: np.ndarray, plane: tuple[int, int], outside: float) -> np.ndarray:
    """One slice as float64 on a plane in which its first pixel lies at ``shift`` (row, column)."""
    offset = np.where(np.abs(shift - np.rint(shift)) < AS_IT_IS, np.rint(shift), shift)
    return np.stack(
        [
            ndimage.affine_transform(
                channel.astype(np.float64), np.ones(2), -offset, plane, order=1, mode="constant", cval=outside
            )
            for channel in piece
        ]
    )


def _affine(stack: Stack, step: float, first: np.ndarray) -> Float[np.ndarray, "4 4"]:
    affine = affine_with(stack.images[0], step)
    affine[:3, 3] += affine[:3, :2] @ first
    return affine
