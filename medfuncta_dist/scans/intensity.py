"""The intensity window: which intensities of a scan become 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfuncta_dist.config.sections.data_section import Data, Intensity
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan import Scan, Window

AUTO_PERCENTILES = (0.0, 99.9)
"""Without the cut, a few very bright values (vessels, metal, markers) would darken the rest of the scan."""


def intensity_of(scan: Scan, data: Data) -> Intensity:
    """The rule for the window of this scan: the run file's or, for a CT in Hounsfield units, ``data.ct_window``.

    Hounsfield units mean the same in every scan, so percentiles of each would lose what they say.
    """
    is_picture = scan.array.dtype.itemsize == 1  # a screenshot of a CT is in grey values
    if data.intensity.mode != "auto" or not isinstance(data.ct_window, list) or is_picture:
        return data.intensity
    if scan.modality != "CT" or scan.unscaled:
        return data.intensity
    return Intensity(mode="range", low=data.ct_window[0], high=data.ct_window[1])


def choose_window(array: np.ndarray, intensity: Intensity) -> Window:
    """The window of one scan. ``array``: (channel, *spatial), finite, not yet resampled; all channels share it."""
    mode = _mode(array.dtype, intensity)
    if mode == "dtype":
        return _of_type(array.dtype)
    if mode == "range":
        assert intensity.low is not None
        assert intensity.high is not None
        return Window(intensity.low, intensity.high)
    if mode == "minmax":
        return Window(float(array.min()), float(array.max()))
    low, high = AUTO_PERCENTILES if intensity.low is None or intensity.high is None else (intensity.low, intensity.high)
    return _of_percentiles(array, low, high)


def choose_joint_window(arrays: Sequence[np.ndarray], intensity: Intensity) -> Window:
    """The window of several scans together: as if they were one."""
    return choose_window(np.concatenate([array.ravel() for array in arrays])[None], intensity)


def needs_values(dtype: np.dtype, intensity: Intensity) -> bool:
    """Whether the window of a scan of this type depends on its values."""
    return _mode(dtype, intensity) in ("minmax", "percentile")


def _mode(dtype: np.dtype, intensity: Intensity) -> str:
    if intensity.mode != "auto":
        return intensity.mode
    return "dtype" if dtype.kind in "iu" and dtype.itemsize == 1 else "percentile"


def _of_type(dtype: np.dtype) -> Window:
    if dtype.kind not in "iu":
        raise ScanError("intensity mode dtype needs integer values", do="choose range, minmax or percentile")
    limits = np.iinfo(dtype)
    return Window(float(limits.min), float(limits.max))


def _of_percentiles(array: np.ndarray, low: float, high: float) -> Window:
    bounds = np.percentile(array, (low, high))
    if bounds[0] == bounds[1]:
        # Almost all values are equal (an empty background): the few that differ are the scan.
        bounds = np.array([array.min(), array.max()])
    return Window(float(bounds[0]), float(bounds[1]))
