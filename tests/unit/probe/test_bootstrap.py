from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.probe.bootstrap import RESAMPLES, differences, interval, resampled
from medfuncta_dist.probe.weighted_scores import Scores, Weights


def mean_of(values: np.ndarray):
    def score(weights: Weights) -> Scores:
        return {"mean": weights @ values / weights.sum(axis=1)}

    return score


def test_the_first_is_the_score_and_the_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    found = resampled(mean_of(values), np.arange(400), seed=1)["mean"]
    assert len(found) == RESAMPLES + 1
    told = interval(found)
    assert told["value"] == pytest.approx(values.mean())
    error = 1.96 * values.std() / 20
    assert told["low"] == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert told["high"] == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_scans_of_a_patient_come_and_go_together_so_the_interval_is_wider():
    by_patient = np.random.default_rng(0).normal(size=40)
    values, patients = np.repeat(by_patient, 10), np.repeat(np.arange(40), 10)

    def width(groups: np.ndarray) -> float:
        told = interval(resampled(mean_of(values), groups, seed=0)["mean"])
        return float(told["high"] or 0) - float(told["low"] or 0)

    assert width(patients) > 2.5 * width(np.arange(400)), "√10 times, but for chance"


def test_equal_predictions_do_not_differ_and_the_seed_decides():
    values = np.random.default_rng(0).normal(size=50)
    one, same = (resampled(mean_of(values), np.arange(50), seed=3) for _ in range(2))
    assert differences(one, same)["mean"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    other = resampled(mean_of(values), np.arange(50), seed=4)
    assert not np.array_equal(one["mean"], other["mean"])
    shifted = resampled(mean_of(values + 1), np.arange(50), seed=3)
    told = differences(shifted, one)["mean"]
    assert told["low"] == pytest.approx(1)
    assert told["high"] == pytest.approx(1)


def test_what_is_never_defined_is_none():
    assert interval(np.full(4, np.nan)) == {"value": None, "low": None, "high": None}
