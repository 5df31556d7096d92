from __future__ import annotations

import time

import pytest

from medfuncta_dist.training.reporting.step_statistics import StepStatistics


def test_metrics_are_of_the_steps_since_the_last_ones() -> None:
    statistics = StepStatistics(batch=8)
    statistics.add_loss(100.0)
    statistics.add(1, seconds=9.0, waited=9.0)
    statistics.take_metrics()
    statistics.add_loss(0.2)
    statistics.add(2, seconds=1.0, waited=0.25)
    statistics.add_loss(0.4)
    statistics.add(3, seconds=3.0, waited=0.75)
    expected = {"loss": 0.3, "s_per_step": 2.0, "samples_per_s": 4.0, "data_wait": 0.25}
    assert {name: value for name, value in statistics.take_metrics().items() if name != "goodput"} == pytest.approx(
        expected
    )


def test_goodput_counts_neither_the_time_before_the_first_step_nor_steps_taken_before_nor_waits() -> None:
    statistics = StepStatistics(batch=8, since=time.time() - 100, redone=11)
    for step in range(10, 14):
        statistics.add_loss(0.1)
        statistics.add(step, seconds=12.0, waited=2.0)
    assert statistics.take_metrics()["goodput"] == pytest.approx(0.2, abs=0.001)
