"""What latents are compared with: PCA of pixels with as many numbers, and scans brought to about as many points.

Pixels are read from verified shards, a few scans at a time. PCA is fitted on training scans alone, as many of them,
taken evenly, as ``evaluation/pca.py`` keeps in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from medfuncta_dist.evaluation.baselines import CHUNK_BYTES, evenly
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.evaluation.pca import MOST_BYTES, components_of
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport

STAGE = "probe"

Scans = Float[np.ndarray, "scan channel *spatial"]
Features = Float[np.ndarray, "scan feature"]


@dataclass(frozen=True, eq=False)
class PixelCodes:
    """Two ways to describe a scan by few numbers, fitted on training scans."""

    mean: Float[np.ndarray, " value"]
    components: Float[np.ndarray, "component value"]
    training_scans: int
    """That the components were fitted on."""
    small: tuple[int, ...]
    """Points per axis of a small scan."""

    def pca(self, scans: Scans) -> Features:
        """Coefficients, the component of most variance first."""
        return np.asarray((scans.reshape(len(scans), -1) - self.mean) @ self.components.T, np.float32)

    def pixels(self, scans: Scans) -> Features:
        """Means over the area of each point of the small scan."""
        from skimage.transform import resize_local_mean

        flat = scans.reshape(-1, *scans.shape[2:])
        small: Any = resize_local_mean(flat, self.small, channel_axis=0)  # type: ignore[no-untyped-call]
        return np.asarray(small, np.float32).reshape(len(scans), -1)

    def about(self) -> dict[str, dict[str, Any]]:
        """Of both, as JSON."""
        return {
            "pca": {"numbers": len(self.components), "training_scans": self.training_scans},
            "pixels": {"shape": list(self.small)},
        }


def fit_codes(worker: WorkerSettings, training: Sequence[Pick], numbers: int, on_progress: OnProgress) -> PixelCodes:
    """Codes of about ``numbers`` numbers a scan; fewer components where there are fewer training scans."""
    first = next(_batches(worker, training[:1]))
    chosen = evenly(training, max(2, MOST_BYTES // (4 * first[0].size)))
    flat = np.empty((len(chosen), first[0].size), np.float32)
    done = 0
    for batch in _batches(worker, chosen):
        flat[done : done + len(batch)] = batch.reshape(len(batch), -1)
        done += len(batch)
        on_progress(ProgressReport(STAGE, done, len(chosen), {"reading": "pixels for PCA"}))
    return codes_of(flat, first.shape[1], first.shape[2:], numbers)


def codes_of(flat: Features, channels: int, shape: Sequence[int], numbers: int) -> PixelCodes:
    """Codes from training scans, a row each, which are overwritten."""
    mean, components = _principal(flat, components_of(numbers, *flat.shape))
    return PixelCodes(mean, components, len(flat), reduced(shape, numbers / channels))


def pixel_features(
    worker: WorkerSettings, codes: PixelCodes, picks: Sequence[Pick], on_progress: OnProgress
) -> dict[str, Features]:
    """Both codes of each scan, in the picks' order, in one pass over the pixels."""
    parts: dict[str, list[Features]] = {"pca": [], "pixels": []}
    done = 0
    for batch in _batches(worker, picks):
        parts["pca"].append(codes.pca(batch))
        parts["pixels"].append(codes.pixels(batch))
        done += len(batch)
        on_progress(ProgressReport(STAGE, done, len(picks), {"reading": "pixels"}))
    return {name: np.concatenate(found) for name, found in parts.items()}


def reduced(shape: Sequence[int], points: float) -> tuple[int, ...]:
    """The grid with these proportions and about so many points: no more on an axis than there are, and one at least."""
    scale = min(1.0, (points / math.prod(shape)) ** (1 / len(shape)))
    return tuple(min(n, max(1, round(n * scale))) for n in shape)


def _principal(flat: Features, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and components of training scans, which are overwritten."""
    if components == 0:
        return flat.mean(axis=0), np.empty((0, flat.shape[1]), np.float32)
    from sklearn.decomposition import PCA  # takes a second

    found = PCA(components, copy=False, random_state=0).fit(flat)
    return found.mean_, found.components_


def _batches(worker: WorkerSettings, picks: Sequence[Pick]) -> Iterator[Scans]:
    store, cache = worker.open()
    samples = read_samples(store, cache, picks)
    for sample in samples:
        first = sample.values()
        more = islice(samples, max(0, CHUNK_BYTES // first.nbytes - 1))
        yield np.stack([first, *(one.values() for one in more)])
