"""What is transparent is black, in every format."""

from __future__ import annotations

import numpy as np


def on_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Unsigned integers over black: ``colour * alpha / largest``, rounded to the nearest; the same type.

    ``colour``: (..., channel); ``alpha``: (..., 1).
    """
    largest = int(np.iinfo(colour.dtype).max)
    product = colour.astype(np.uint64) * alpha.astype(np.uint64)
    return ((product + largest // 2) // largest).astype(colour.dtype)
