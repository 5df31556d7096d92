"""From what a modality's scans are like to keys of the run file's ``data`` section. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfuncta_dist.fingerprint.scan_facts import PERCENTILES, ScanFacts
from medfuncta_dist.shards.data_contract import CT_WINDOW

MOST_POINTS = {1: 2**16, 2: 2**16, 3: 2**15}
"""By the number of axes: 256 x 256 or 32 x 32 x 32, which the presets are made for. A limit of cost, not of data."""
EXACT = 64
"""Points per axis up to which a size is taken as it is; larger ones become a multiple of ``STEP``."""
STEP = 8
LEAST = 8
AIR, NO_METAL = (-3100, -900), 4100
"""Where the lowest and the highest percentile of a CT lie: air is at -1000, padding at -3024; 12 bits."""
SOFT = 0.005
"""Share of the values between fat and muscle (-150 to 150) that an image of a body has at least."""


@dataclass(frozen=True)
class Suggestion:
    """``data``: keys of the section, as the run file has them; ``spacing``: of the grid, in mm where files say so;
    ``why``: a remark for each key."""

    data: dict[str, Any]
    spacing: tuple[float, ...]
    why: dict[str, str]


def suggest(scans: Sequence[ScanFacts]) -> Suggestion:
    """For scans of one modality and number of axes, at least one."""
    shape, spacing, about_shape = _grid(scans)
    key, value, about = _window(scans)
    channels = int(np.median([scan.channels for scan in scans]))
    data: dict[str, Any] = {"shape": shape}
    if channels != 1:
        data["channels"] = channels
    data[key] = value
    return Suggestion(data, spacing, {"shape": about_shape, key: about})


def _grid(scans: Sequence[ScanFacts]) -> tuple[list[int], tuple[float, ...], str]:
    """Points per axis with one spacing for all axes (as ``aspect: pad`` makes it), that of the finest axis if they are
    not too many."""
    sizes = np.array([scan.shape for scan in scans], float)
    spacings = np.array([scan.spacing for scan in scans], float)
    extent = np.median((sizes - 1) * spacings, axis=0)
    shape, median = fitted(extent, np.median(spacings, axis=0)), np.median(sizes, axis=0)
    step = extent / np.maximum(np.array(shape) - 1, 1)
    about = f"median {_times(median)} at {_times(np.median(spacings, axis=0), '.3g')}"
    return (
        shape,
        tuple(float(s) for s in step),
        about + ("" if len(shape) == 1 else f"; this is one point per {max(step):.3g}"),
    )


def fitted(extent: np.ndarray, spacing: np.ndarray) -> list[int]:
    """Points per axis over a field of view of this extent."""
    axes = len(extent)
    points = extent / spacing.min() + 1
    factor = min(1.0, (MOST_POINTS[axes] / math.prod(points)) ** (1 / axes))
    wanted = [max(2.0, n * factor) for n in points]
    if axes == 1 or (factor == 1 and max(wanted) <= EXACT):
        return [round(n) for n in wanted]
    return [_rounded(n) for n in wanted]


def _rounded(size: float) -> int:
    return max(LEAST, round(size / STEP) * STEP)


def _window(scans: Sequence[ScanFacts]) -> tuple[str, Any, str]:
    """The key that decides the intensity window, its value, and why."""
    pooled = np.concatenate([scan.values for scan in scans])
    low, high = (float(p) for p in np.percentile(pooled, (PERCENTILES[0], PERCENTILES[-1])))
    seen = f"percentiles 0.5 and 99.5 of the data set: {low:.4g} and {high:.4g}"
    in_units = sum(scan.hounsfield for scan in scans)
    if 2 * in_units > len(scans):
        of = "" if in_units == len(scans) else f" in {in_units} of {len(scans)} scans, the others get their own window"
        return "ct_window", [round(end) for end in CT_WINDOW], f"Hounsfield units{of}; the default; {seen}"
    if looks_like_hounsfield(pooled):
        value = {"mode": "range", "low": round(CT_WINDOW[0]), "high": round(CT_WINDOW[1])}
        return "intensity", value, f"values look like Hounsfield units, which the files do not say; {seen}"
    if all(scan.dtype in ("uint8", "int8") for scan in scans):
        return "intensity", {"mode": "dtype"}, f"8 bits: their whole range means the same in every scan; {seen}"
    if len(scans[0].shape) == 1:
        return "intensity", {"mode": "minmax"}, "percentiles would cut the peaks of a signal"
    value = {"mode": "percentile", "low": PERCENTILES[0], "high": PERCENTILES[-1]}
    about = "no Hounsfield units, as the files have no rescale" if scans[0].modality == "CT" else "units differ"
    return "intensity", value, f"{about}: each scan gets its own window; {seen}"


def looks_like_hounsfield(pooled: np.ndarray) -> bool:
    """Whether values (of many scans) are like those of a CT: much air, soft tissue around water, at most 12 bits."""
    low, high = np.percentile(pooled, (PERCENTILES[0], PERCENTILES[-1]))
    soft = float(((pooled > -150) & (pooled < 150)).mean())
    return bool(AIR[0] <= low <= AIR[1] and 0 < high <= NO_METAL and soft >= SOFT)


def _times(numbers: np.ndarray, form: str = "g") -> str:
    return " x ".join(f"{n:{form}}" for n in numbers)
