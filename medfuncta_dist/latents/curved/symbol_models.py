"""How probable each symbol is: models in whole numbers, from the spreads of symbols over training scans. Pure.

Symbols of nearly the same spread share a model, a smooth distribution of that spread. Counted symbols instead were no
better with a thousand training scans, and took a fifth more bytes on new scans with eighty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from medfuncta_dist.latents.curved.curved_tables import LARGEST_REACH, PRECISION

PER_OCTAVE = 2
"""Models per doubling of the spread: a spread that is 19 % off costs a hundredth of a bit per symbol."""
LEAST_SPREAD = 0.05
"""Of a symbol, in steps: one that is nearly always 0."""
REACH = 6
"""In spreads: a symbol beyond costs some 40 bits."""


class SymbolModels(NamedTuple):
    """As ``CurvedTables`` has them, for symbols whose spreads fall."""

    counts: Int[np.ndarray, " model"]
    reaches: Int[np.ndarray, " model"]
    frequencies: Int[np.ndarray, " frequency"]


def models_of(spreads: Float[np.ndarray, " symbol"]) -> SymbolModels:
    """Models for symbols of these standard deviations, in steps, which fall."""
    spreads = np.maximum(spreads, LEAST_SPREAD)
    octaves = np.floor(PER_OCTAVE * np.log2(spreads)).astype(int)
    groups = np.split(spreads, np.flatnonzero(np.diff(octaves)) + 1)
    middles = [float(np.sqrt(np.square(group).mean())) for group in groups]
    reaches = [min(LARGEST_REACH, max(1, int(np.ceil(REACH * middle)))) for middle in middles]
    found = [whole_frequencies(_smooth(*of)) for of in zip(middles, reaches, strict=True)]
    counts = np.array([len(group) for group in groups], np.int32)
    return SymbolModels(counts, np.array(reaches, np.int32), np.concatenate(found))


def _smooth(spread: float, reach: int) -> Float[np.ndarray, " symbol"]:
    """Between a normal and a two-sided exponential distribution; what lies beyond the reach in the two last places."""
    places = np.abs(np.arange(-reach - 1, reach + 2)) / np.hypot(spread, 0.3)
    both = [np.exp(-np.square(places) / 2), np.exp(-np.sqrt(2) * places)]
    smooth: np.ndarray = sum(one / one.sum() for one in both) / 2
    return smooth


def whole_frequencies(weights: Float[np.ndarray, " symbol"]) -> Int[np.ndarray, " symbol"]:
    """Whole numbers of at least 1 with the sum 2²⁴, nearly in proportion to the weights."""
    shared = 2**PRECISION - len(weights)
    found = 1 + np.floor(weights / weights.sum() * shared).astype(np.int64)
    found[int(np.argmax(weights))] += 2**PRECISION - found.sum()
    return np.asarray(found, np.int32)
