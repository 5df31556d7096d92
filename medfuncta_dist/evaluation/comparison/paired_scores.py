"""Scores of the same scans in two runs, paired by key, and mean differences with intervals. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student

from medfuncta_dist.evaluation.label_names import label_name

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A metric in two runs, over ``scans`` pairs: both means, the mean of b − a with its interval, and the shares of
    scans that are better and worse in b. ``low`` and ``high`` are None with fewer than two patients (or scans)."""

    scans: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    better: float
    worse: float


@dataclass(frozen=True, eq=False)
class PairedScores:
    """Rows of both runs in one order, by key; ``only_a`` and ``only_b`` count scans that one of them has."""

    a: pa.Table
    b: pa.Table
    only_a: int
    only_b: int

    @property
    def labels(self) -> list[str]:
        """Of each pair, as the first run has them."""
        return [label_name(labels) for labels in self.a["labels"].to_pylist()]

    def values(self, metric: str) -> tuple[Float[np.ndarray, " scan"], Float[np.ndarray, " scan"]]:
        """Of both runs; NaN where a metric is not defined."""
        a, b = (np.asarray(rows[metric].to_numpy(zero_copy_only=False), float) for rows in (self.a, self.b))
        return a, b


def pair(a: pa.Table, b: pa.Table, split: str) -> PairedScores:
    """Pair the scans of one split that both tables (``metrics.parquet``, sorted by key) have in it."""
    a, b = (rows.filter(pc.equal(rows["split"], split)) for rows in (a, b))
    in_a, in_b = (
        a.filter(pc.is_in(a["key"], b["key"].combine_chunks())),
        b.filter(pc.is_in(b["key"], a["key"].combine_chunks())),
    )
    return PairedScores(in_a, in_b, a.num_rows - in_a.num_rows, b.num_rows - in_b.num_rows)


def clusters_of(keys: list[str], patients: Mapping[str, str] | None) -> Int[np.ndarray, " scan"]:
    """The number of each scan's patient; a scan whose patient nobody knows counts as a patient of its own."""
    names = keys if patients is None else [patients.get(key) or key for key in keys]
    return np.unique(names, return_inverse=True)[1]


def difference(
    a: Float[np.ndarray, " scan"], b: Float[np.ndarray, " scan"], clusters: Int[np.ndarray, " scan"]
) -> Difference | None:
    """Compare one metric over the scans in which both runs define it; None where there are none."""
    known: Bool[np.ndarray, " scan"] = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return None
    a, b = a[known], b[known]
    low, high = interval(b - a, clusters[known])
    better, worse = float((b > a).mean()), float((b < a).mean())
    return Difference(len(a), float(a.mean()), float(b.mean()), float((b - a).mean()), low, high, better, worse)


def interval(
    values: Float[np.ndarray, " scan"], clusters: Int[np.ndarray, " scan"]
) -> tuple[float, float] | tuple[None, None]:
    """The interval of the mean by Student's t, where scans of one cluster are not independent: the variance is that of
    the clusters' sums (Liang & Zeger 1986)."""
    _, place = np.unique(clusters, return_inverse=True)
    count = int(place.max()) + 1
    if count < 2:
        return None, None
    mean = float(values.mean())
    sums = np.bincount(place, values - mean)
    error = float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(values))
    reach = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return mean - reach, mean + reach
