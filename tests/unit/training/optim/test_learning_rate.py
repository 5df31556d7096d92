from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.training.optim.learning_rate import learning_rate


@given(st.integers(1, 500), st.integers(0, 100))
def test_it_rises_to_the_rate_then_falls_to_nearly_zero(steps: int, warmup: int) -> None:
    train = Train(rate=0.1, steps=steps, warmup_steps=warmup)
    rates = [learning_rate(step, train) for step in range(steps)]
    assert all(0 < rate <= 0.1 for rate in rates)
    peak = min(warmup, steps)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert learning_rate(max(steps, warmup + 1), train) == pytest.approx(0)


def test_half_way_through_a_cosine_is_half_the_rate() -> None:
    assert learning_rate(55, Train(rate=0.1, steps=100, warmup_steps=10)) == pytest.approx(0.05)


def test_the_schedule_ends_where_it_says_whatever_the_number_of_steps() -> None:
    long, short = (Train(rate=0.1, steps=steps, schedule_steps=100, warmup_steps=10) for steps in (130, 40))
    whole = Train(rate=0.1, steps=100, warmup_steps=10)
    assert [learning_rate(step, long) for step in range(100)] == [learning_rate(step, whole) for step in range(100)]
    assert [learning_rate(step, short) for step in range(40)] == [learning_rate(step, whole) for step in range(40)]
    assert {learning_rate(step, long) for step in range(100, 130)} == {0.0}
    assert (long.idle_steps, short.idle_steps, whole.idle_steps) == (30, 0, 0)
    assert Train(steps=130, schedule_steps=100, schedule="constant").idle_steps == 0


def test_a_constant_rate_stays() -> None:
    train = Train(rate=0.1, steps=100, schedule="constant", warmup_steps=2)
    assert [learning_rate(step, train) for step in (0, 1, 2, 99)] == [0.05, 0.1, 0.1, 0.1]
