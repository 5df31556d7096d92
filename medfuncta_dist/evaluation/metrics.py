"""How close a reconstruction is to its scan: MSE, PSNR and SSIM per scan, and their spread over many. Pure numpy.

All values are in [0, 1], so the data range is 1. Reconstructions are clamped to it before anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter

PSNR_CAP = 100.0  # dB, for a perfect reconstruction, so that means stay finite
SSIM_WINDOW = (
    7  # points per axis: the default of scikit-image, and of the original paper's Matlab code for uniform windows
)

SCORED_VALUES = 2**15
"""Values of the scans that are scored at once: each of SSIM's ten arrays (float64) is then 256 KiB, and they stay in a
core's cache. One scan alone takes up to nine times as long where scans are small."""

Values = Float[np.ndarray, "channel *spatial"]
Scans = Float[np.ndarray, "scan channel *spatial"]


@dataclass(frozen=True)
class Score:
    """How well one scan is reconstructed. ``psnr`` in dB; ``ssim`` is NaN where it is not defined."""

    mse: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Spread:
    """A metric over ``scans`` scans; NaN values are left out. ``std`` is the population's."""

    scans: int
    mean: float
    std: float
    median: float
    lowest: float
    highest: float

    def as_json(self) -> dict[str, float | int]:
        """As a JSON object."""
        return asdict(self)


def score(original: Values, reconstruction: Values) -> Score:
    """All metrics of one scan."""
    return scores(original[None], reconstruction[None])[0]


def scores(originals: Scans, reconstructions: Scans) -> list[Score]:
    """All metrics of several scans, to the bit those of each alone; ``SCORED_VALUES`` are in memory at once."""
    few = max(1, SCORED_VALUES // math.prod(originals.shape[1:]))
    starts = range(0, len(originals), few)
    return [one for at in starts for one in _scores(originals[at : at + few], reconstructions[at : at + few])]


def _scores(originals: Scans, reconstructions: Scans) -> list[Score]:
    exact, clamped = originals.astype(np.float64), np.clip(reconstructions, 0, 1).astype(np.float64)
    errors = np.square(exact - clamped).reshape(len(exact), -1).mean(axis=1)
    rows = zip(errors.tolist(), psnr(errors).tolist(), _ssims(exact, clamped), strict=True)
    return [Score(*row) for row in rows]


def masked_psnr(original: Values, reconstruction: Values, mask: np.ndarray | None) -> float:
    """PSNR in dB over the points (*spatial) whose class is not 0, in all channels; NaN where there are none."""
    if mask is None or not mask.any():
        return math.nan
    inside = mask > 0
    exact, clamped = original[:, inside].astype(np.float64), reconstruction[:, inside].clip(0, 1).astype(np.float64)
    return float(psnr(np.square(exact - clamped).mean()))


def psnr(error: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Mean squared errors → −10·log₁₀(MSE) in dB, at most ``PSNR_CAP``."""
    return np.asarray(-10 * np.log10(np.maximum(error, 10 ** (-PSNR_CAP / 10))))


def _ssims(originals: Scans, reconstructions: Scans) -> list[float]:
    """Structural similarity (Wang et al. 2004) of each scan, float64: mean over points and channels.

    The formula, its constants and the order of its operations are scikit-image's ``structural_similarity``, which takes
    one channel at a time; a test compares the two bit by bit. The uniform window has 7 points on each axis, or the
    largest odd number that fits a shorter axis. One-dimensional scans use the same formula on a one-dimensional window.
    NaN where an axis has fewer than 3 points.
    """
    shape = originals.shape[2:]
    window = ssim_window(shape)
    if window < 3:
        return [float("nan")] * len(originals)
    (ux, uy), (vx, vy, vxy) = _moments(originals, reconstructions, window)
    c1, c2 = 0.01**2, 0.03**2
    similar = ((2 * ux * uy + c1) * (2 * vxy + c2)) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    inner = tuple(slice(window // 2, n - window // 2) for n in shape)  # where the window lies within the scan
    # Channel by channel: over several axes at once, numpy adds in another order.
    return [float(np.array([channel[inner].mean() for channel in scan]).mean()) for scan in similar]


def _moments(one: Scans, two: Scans, window: int) -> tuple[tuple[Scans, Scans], tuple[Scans, Scans, Scans]]:
    """Both means, and both variances and the covariance (of samples), in the window around each point."""
    points = window ** (one.ndim - 2)
    unbiased = points / (points - 1)
    size = (1, 1, *[window] * (one.ndim - 2))
    u1, u2, u11, u22, u12 = (uniform_filter(x, size) for x in (one, two, one * one, two * two, one * two))
    return (u1, u2), (unbiased * (u11 - u1 * u1), unbiased * (u22 - u2 * u2), unbiased * (u12 - u1 * u2))


def ssim_window(shape: Sequence[int]) -> int:
    """Points per axis of SSIM's window for scans of this shape: odd, at most 7, at most the shortest axis."""
    shortest = min(*shape, SSIM_WINDOW)
    return shortest - 1 + shortest % 2


def spread(values: Iterable[float]) -> Spread | None:
    """Mean, standard deviation, median and range; None when no value is finite."""
    array = np.asarray(list(values), np.float64)
    array = array[np.isfinite(array)]
    if not len(array):
        return None
    median = float(np.median(array))
    return Spread(len(array), float(array.mean()), float(array.std()), median, float(array.min()), float(array.max()))


def by_group(groups: Sequence[str], metrics: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Spread | None]]:
    """Spread of each metric in each group: ``groups`` names each scan's one; sorted by name, numbers as numbers."""
    names = np.asarray(groups)
    return {
        name: {metric: spread(np.asarray(values)[names == name]) for metric, values in metrics.items()}
        for name in sorted(set(groups), key=natural)
    }


def natural(name: str) -> tuple[int, int, str]:
    """Sort key under which label 10 comes after label 9."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
