"""What is transparent is black, in every format."""

from __future__ import annotations

import numpy as np


def on_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Unsigned integers over black: ``colour * alpha / largest``, rounded to the nearest; the same type.

    ``colour``: (..., channel); ``alpha``: (..., 1).
    """
    largest = np.iinfo(colour.dtype).max
    twice = np.dtype(f"u{2 * colour.dtype.itemsize}").type  # largest ** 2 + largest / 2 fits
    product: np.ndarray = colour.astype(twice) * alpha.astype(twice)
    product += twice(largest // 2)
    product //= twice(largest)
    result: np.ndarray = product.astype(colour.dtype)
    return result
