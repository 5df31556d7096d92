"""How close a reconstruction is to its scan: MSE, PSNR and SSIM per scan, and their spread over many. Pure numpy.

All values are in [0, 1], so the data range is 1. Reconstructions are clamped to it before anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from skimage.metrics import structural_similarity

PSNR_CAP = 100.0  # dB, for a perfect reconstruction, so that means stay finite
SSIM_WINDOW = (
    7  # points per axis: the default of scikit-image, and of the original paper's Matlab code for uniform windows
)

Values = Float[np.ndarray, "channel *spatial"]


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
    clamped = np.clip(reconstruction, 0, 1)
    error = mse(original, clamped)
    return Score(error, float(psnr(np.array(error))), ssim(original, clamped))


def mse(original: Values, reconstruction: Values) -> float:
    """Mean squared error over points and channels, summed in float64."""
    return float(np.square(original.astype(np.float64) - reconstruction).mean())


def psnr(error: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Mean squared errors → −10·log₁₀(MSE) in dB, at most ``PSNR_CAP``."""
    return np.asarray(-10 * np.log10(np.maximum(error, 10 ** (-PSNR_CAP / 10))))


def ssim(original: Values, reconstruction: Values) -> float:
    """Structural similarity (Wang et al. 2004; scikit-image), mean over points and channels.

    The uniform window has 7 points on each axis, or the largest odd number that fits a shorter axis. One-dimensional
    scans use the same formula on a one-dimensional window. NaN where an axis has fewer than 3 points.
    """
    window = ssim_window(original.shape[1:])
    if window < 3:
        return float("nan")
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            original.astype(np.float64),
            reconstruction.astype(np.float64),
            data_range=1.0,
            win_size=window,
            channel_axis=0,
        )
    )


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
