"""Integer frequency tables that the entropy coder chooses from: generalised normal distributions of many widths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import gennorm

SHAPES = (0.5, 1.0, 2.0)
"""Exponents: heavier tails than Laplace's, Laplace's, Gauss'."""
WIDTHS = np.geomspace(0.02, 500, 56)
"""Standard deviations in steps."""
TOTAL = 2**22
LARGEST = 2**11
"""The last symbol of the widest tables."""
EXACT = 16
"""Sizes below this have a bin of their own in a histogram; larger ones share."""
BINS = EXACT + 40


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of the symbols −``last`` … ``last``; the two ends say that what is beyond follows elsewhere."""

    last: int
    frequencies: Int[np.ndarray, " symbol"]

    @property
    def bits(self) -> Float[np.ndarray, " symbol"]:
        """What each symbol costs."""
        return np.asarray(-np.log2(self.frequencies / self.frequencies.sum()))


@cache
def tables() -> tuple[Table, ...]:
    """All of them, each a byte to name."""
    return tuple(_table(shape, width) for shape in SHAPES for width in WIDTHS)


def _table(shape: float, width: float) -> Table:
    last = int(min(LARGEST, max(2, np.ceil(8 * width))))
    scale = width / gennorm.std(shape)
    edges = gennorm.cdf(np.arange(-last, last + 2) - 0.5, shape, scale=scale)
    edges[0], edges[-1] = 0, 1
    return Table(last, np.maximum(1, np.rint(np.diff(edges) * TOTAL)).astype(np.int64))


@cache
def bin_of_size() -> Int[np.ndarray, " size"]:
    """The bin of each size up to ``LARGEST``."""
    sizes = np.arange(LARGEST + 1)
    share = np.log(np.maximum(sizes, EXACT) / EXACT) / np.log((LARGEST + 1) / EXACT)
    return np.where(sizes < EXACT, sizes, EXACT + (share * (BINS - EXACT)).astype(int))


def bins(symbols: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
    """The bin of each symbol."""
    return bin_of_size()[np.minimum(np.abs(symbols), LARGEST)]


@cache
def bin_bits() -> Float[np.ndarray, "table bin"]:
    """What a symbol of a bin costs in each table, on average; beyond a table's end, twice the logarithm more."""
    sizes, found = np.arange(LARGEST + 1), np.zeros((len(tables()), BINS), np.float32)
    counts = np.maximum(1, np.bincount(bin_of_size(), minlength=BINS))
    for row, table in enumerate(tables()):
        inside = table.bits[table.last + np.minimum(sizes, table.last)]
        beyond = np.where(sizes >= table.last, 8 + 2 * np.log2(1 + np.maximum(0, sizes - table.last)), 0)
        found[row] = np.bincount(bin_of_size(), inside + beyond, minlength=BINS) / counts
    return found
