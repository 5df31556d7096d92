"""Volumes in RAS+ order: the axes that are closest to right, anterior and superior, in this order."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np


def closest_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and swap the first axes of ``array`` to the closest RAS+ order; no value is interpolated.

    ``array``: 2 or 3 spatial axes, then any others, which stay; ``affine``: (4, 4), voxel -> RAS mm. nibabel's
    ``as_closest_canonical``, but for images of two axes too.
    """
    flips: Any = nib.orientations
    order = flips.io_orientation(affine)
    return flips.apply_orientation(array, order), affine @ flips.inv_ornt_aff(order, array.shape[:3])
