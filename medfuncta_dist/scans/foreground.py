"""The foreground of a scan, told by its values alone: Otsu's threshold, the largest component, holes filled.

The patient, without the air around and without a table beside. Nothing is learned, and equal values give equal masks.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medfuncta_dist.errors import ScanError


def foreground_of(values: np.ndarray) -> np.ndarray:
    """bool (*spatial): the points of the foreground, given values (*spatial) of one to three axes, bright inside.

    The largest of the components above Otsu's threshold (1979), in which points touch by faces; then what it encloses,
    in three axes also what any plane of it encloses: an airway that leaves a volume at its end does not open the body.
    A value that is not finite is background. A scan of one value is all foreground.

    ScanError where no value is finite. Values far outside of all others widen the histogram's 256 bins: window first.
    """
    known: np.ndarray = np.isfinite(values)
    if not known.any():
        raise ScanError("no value is finite")
    low, high = values[known].min(), values[known].max()
    if low == high:
        return known
    # From 0 to 1, whatever their type: of whole numbers, the histogram would have a bin for each. Halved, so that no
    # difference is too large for a float.
    half = np.float64(low) / 2
    scaled = (values / np.float64(2) - half) / (np.float64(high) / 2 - half)
    return _filled(_largest(known & (scaled > _threshold(scaled[known]))))


def _threshold(values: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]


def _largest(mask: np.ndarray) -> np.ndarray:
    """The component with the most points; of equal ones the first."""
    components, count = ndimage.label(mask)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest: np.ndarray = components == sizes.argmax()
    return largest


def _filled(mask: np.ndarray) -> np.ndarray:
    """With what it encloses."""
    filled: np.ndarray = _enclosed(mask, mask.ndim)
    if mask.ndim == 3:
        planes = [_enclosed_in_planes(filled, axis) for axis in range(3)]
        filled = np.logical_or.reduce(planes)
    return filled


def _enclosed_in_planes(mask: np.ndarray, axis: int) -> np.ndarray:
    return np.stack([_enclosed(plane, 2) for plane in np.moveaxis(mask, axis, 0)], axis)


def _enclosed(mask: np.ndarray, axes: int) -> np.ndarray:
    """Background that does not reach the border by faces becomes foreground."""
    background, _ = ndimage.label(~np.pad(mask, 1))
    first, last = background.flat[0], background.flat[-1]  # one and the same, but in a line, which has two ends
    inner: np.ndarray = ((background != first) & (background != last))[(slice(1, -1),) * axes]
    return inner
