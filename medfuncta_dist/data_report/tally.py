"""What is counted of a data set's samples: sums of a fixed size, however many samples there are. Pure.

Tallies of shards are added up in any order, with the same result.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from medfuncta_dist.scans.scan import PIECE_VALUES
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import sha256_bytes

MOST_DISTINCT = 500
"""Different spacings or labels that are counted by themselves, of each modality; all others together are ``OTHERS``."""
OTHERS = "others"
LONG = "numbers of five digits and more"
"""Labels that are not shown: they are no classes, but could be dates or numbers of patients."""
LARGEST_LABEL = 9999
WINDOWS = 512
"""Samples whose window is kept, those with the smallest lots."""
SPACING_EDGES = np.logspace(-3, 3, 61)
"""Ten bins per decade from 1 µm to 1 m."""
VALUE_BINS = 50


def lot_of(key: str) -> int:
    """A random number of 64 bits, always the same for a key. Not the key itself: splits are drawn by keys, so the
    smallest ones are all in one split."""
    return int(sha256_bytes(key.encode())[:16], 16)


class Place(NamedTuple):
    """A sample that may be shown."""

    key: str
    split: str
    shard: Shard
    row: int


class KeptWindow(NamedTuple):
    """The intensity window of a sample."""

    lot: int
    low: float
    high: float


@dataclass
class ModalityTally:
    """Counts of the samples of one modality."""

    scans: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    spacings: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By split and label; several labels of one scan are one text."""
    slices: int = 0
    without_affine: int = 0
    spacing_bins: np.ndarray = field(default_factory=lambda: np.zeros((3, len(SPACING_EDGES) - 1), np.int64))
    """(axis, bin of ``SPACING_EDGES``)"""
    windows: list[KeptWindow] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    measured: int = 0
    """Samples whose values are in the next two."""
    value_bins: np.ndarray = field(default_factory=lambda: np.zeros(VALUE_BINS, np.int64))
    """Of the values from 0 to 1, those beyond the window left out."""
    beyond: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    """Values: below the window, above it, and all."""

    def count(self, meta: Mapping[str, Any], place: Place, pictures: int) -> None:
        """Count one sample; ``meta`` as in its json member."""
        self.scans += 1
        self.splits[place.split] += 1
        self.shapes[_times(meta["shape"][1:]) + (f", {meta['shape'][0]} channels" if meta["shape"][0] > 1 else "")] += 1
        self.types[meta["dtype"]] += 1
        add_to(self.spacings, _times(meta["spacing"]))
        if meta["labels"]:
            add_to(self.labels, (place.split, _label(meta["labels"])))
        self.slices += meta["slice"] is not None
        self.without_affine += meta["affine"] is None
        for axis, spacing in enumerate(meta["spacing"]):
            self.spacing_bins[axis, spacing_bin(spacing)] += 1
        low, high = meta["window"]
        self.windows.append(KeptWindow(lot_of(place.key), float(low), float(high)))
        self.places.append(place)
        self._trim(pictures, slack=WINDOWS)

    def measure(self, values: np.ndarray, low: float, high: float) -> None:
        """Count the values of a sample, in its own units, by where they are in its window."""
        self.measured += 1
        flat = values.reshape(-1)
        for start in range(0, flat.size, PIECE_VALUES):  # a scan in its own shape may be large
            part = flat[start : start + PIECE_VALUES]
            self.beyond += [(part < low).sum(), (part > high).sum(), part.size]
            if high > low:
                inside = (part[(part >= low) & (part <= high)].astype(np.float64) - low) / (high - low)
                self.value_bins += np.histogram(inside, VALUE_BINS, (0.0, 1.0))[0]

    def add(self, other: ModalityTally, pictures: int) -> None:
        """Add another one's counts."""
        self.scans, self.slices = self.scans + other.scans, self.slices + other.slices
        self.without_affine, self.measured = self.without_affine + other.without_affine, self.measured + other.measured
        self.splits += other.splits
        self.shapes += other.shapes
        self.types += other.types
        for spacing, count in sorted(other.spacings.items()):
            add_to(self.spacings, spacing, count)
        for label, count in sorted(other.labels.items()):
            add_to(self.labels, label, count)
        self.spacing_bins += other.spacing_bins
        self.value_bins += other.value_bins
        self.beyond += other.beyond
        self.windows += other.windows
        self.places += other.places
        self._trim(pictures)

    def _trim(self, pictures: int, slack: int = 0) -> None:
        if len(self.windows) > WINDOWS + slack:
            self.windows = heapq.nsmallest(WINDOWS, self.windows)
        if len(self.places) > pictures + slack:
            self.places = heapq.nsmallest(pictures, self.places, key=lambda place: lot_of(place.key))

    def finished(self, pictures: int) -> ModalityTally:
        """Without what was kept for want of a better one."""
        self._trim(pictures)
        return self


def add_to(counter: Counter[Any], name: str | tuple[str, str], count: int = 1) -> None:
    """Count, but keep the counter small."""
    if name not in counter and len(counter) >= MOST_DISTINCT:
        name = OTHERS if isinstance(name, str) else (name[0], OTHERS)
    counter[name] += count


def spacing_bin(spacing: float) -> int:
    """The bin of ``SPACING_EDGES``; what is outside counts in the first or last one."""
    place = math.floor((math.log10(spacing) + 3) * 10 + 1e-9) if spacing > 0 else 0
    return min(max(place, 0), len(SPACING_EDGES) - 2)


def _label(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels)) if max(map(abs, labels)) <= LARGEST_LABEL else LONG


def _times(numbers: Any) -> str:
    """Three digits: spacings that differ by rounding are one."""
    return " × ".join(f"{n:.3g}" if isinstance(n, float) else str(n) for n in numbers)
