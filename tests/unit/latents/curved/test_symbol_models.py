from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.latents.curved.symbol_models import models_of, whole_frequencies


@given(st.lists(st.floats(1e-9, 1e9), min_size=3, max_size=200))
def test_frequencies_are_whole_and_sum_to_what_the_coder_counts(weights: list[float]) -> None:
    found = whole_frequencies(np.array(weights))
    assert found.min() >= 1
    assert found.sum(dtype=np.int64) == 2**24


def test_every_symbol_has_a_model_of_its_spread() -> None:
    spreads = np.geomspace(300, 0.01, 60)
    found = models_of(spreads)
    assert found.counts.sum() == 60
    models = np.split(found.frequencies, np.cumsum(2 * found.reaches + 3)[:-1])
    for model, reach, first in zip(models, found.reaches, np.cumsum([0, *found.counts[:-1]]), strict=True):
        p = model / 2**24
        spread = np.sqrt((p * np.square(np.arange(-reach - 1, reach + 2))).sum())
        assert spread <= 1.5 * max(spreads[first], 0.4)
        assert np.abs(p - p[::-1]).max() < 1e-3


def test_what_was_never_seen_is_possible() -> None:
    found = models_of(np.full(4, 0.01))
    assert found.frequencies.min() >= 1
    assert found.frequencies.max() > 0.9 * 2**24
