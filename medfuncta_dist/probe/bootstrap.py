"""Intervals of scores by resampling patients: all scans of one come and go together. Pure.

The same seed gives the same resamples, so that two predictions of the same scans can be compared resample by resample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from medfuncta_dist.probe.weighted_scores import Score, Scores

RESAMPLES = 1000
ENDS = (2.5, 97.5)
"""Percentiles: the middle 95 %."""
CHUNK_NUMBERS = 2**22
"""Of weights at once: 32 MB."""


def resampled(score: Score, patients: Int[np.ndarray, " scan"], seed: int, resamples: int = RESAMPLES) -> Scores:
    """Scores with every patient once, in place 0, and of each resample after it: so many patients, drawn with
    replacement."""
    parts = [score(np.ones((1, len(patients)))), *map(score, _weights(patients, seed, resamples))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values: Float[np.ndarray, " resample"]) -> dict[str, float | None]:
    """Value and ends of the interval; None where it is not defined."""
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(drawn, ENDS).tolist() if len(drawn) else (None, None)
    value = None if np.isnan(values[0]) else float(values[0])
    return {"value": value, "low": low, "high": high}


def differences(one: Scores, other: Scores) -> Mapping[str, dict[str, float | None]]:
    """The interval of each score's difference, of the same scans and seed."""
    return {name: interval(one[name] - other[name]) for name in one}


def _weights(patients: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    generator, count = np.random.default_rng(seed), int(patients.max()) + 1
    few = max(1, CHUNK_NUMBERS // len(patients))
    for start in range(0, resamples, few):
        draws = generator.multinomial(count, np.full(count, 1 / count), size=min(few, resamples - start))
        yield draws[:, patients].astype(float)
