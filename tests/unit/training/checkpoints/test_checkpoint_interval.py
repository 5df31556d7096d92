from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.training.checkpoints.checkpoint_interval import (
    FIRST_S,
    LONGEST_S,
    SHORTEST_S,
    interval,
    time_between_failures,
    young,
)

COST = st.floats(1e-3, 1e3)
BETWEEN = st.floats(60, 1e7)


def lost(seconds: float, cost: float, between: float) -> float:
    """Share of the time lost with this interval: the checkpoint, and half an interval a failure."""
    return cost / seconds + seconds / (2 * between)


@given(COST, BETWEEN, st.floats(0.01, 100))
def test_no_other_interval_loses_less(cost: float, between: float, factor: float) -> None:
    best = young(cost, between)
    assert lost(best, cost, between) <= lost(best * factor, cost, between) * (1 + 1e-9)


@given(COST, st.floats(0, 1e4), BETWEEN)
def test_it_stays_in_bounds_and_is_never_shorter_than_an_upload(cost: float, upload: float, between: float) -> None:
    chosen = interval(cost, upload, between)
    assert max(SHORTEST_S, upload) <= chosen <= max(LONGEST_S, upload)
    assert interval(2 * cost, upload, between) >= chosen
    assert interval(cost, upload, 2 * between) >= chosen


def test_before_anything_was_measured_it_is_short() -> None:
    assert interval(None, 0.0, 1e9) == FIRST_S


def test_the_textbook_s_figure() -> None:
    assert young(cost_s=30, between_failures_s=6 * 3600) == pytest.approx(1138.4, abs=0.1)


@given(st.floats(60, 1e6), st.floats(0, 1e7), st.integers(0, 1000))
def test_what_was_seen_replaces_what_was_expected(prior: float, observed: float, failures: int) -> None:
    found = time_between_failures(prior, observed, failures)
    assert time_between_failures(prior, 0, 0) == prior
    assert time_between_failures(prior, observed, failures + 1) < found
    many = time_between_failures(prior, 1e9 * observed, 10**9)
    assert math.isclose(many, observed + prior / 1e9, rel_tol=1e-6)
