from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from medfuncta_dist.evaluation.comparison.paired_scores import clusters_of, difference, interval, pair
from tests.unit.evaluation.made_scores import scores


def test_scans_are_paired_by_key_within_the_split():
    a = pa.concat_tables([scores(10, "both"), scores(3, "ours")]).sort_by("key")
    b = pa.concat_tables([scores(10, "both", psnr=lambda i: 30.0 + i), scores(2, "theirs")]).sort_by("key")
    found = pair(a, b, "test")
    assert found.a["key"].to_pylist() == found.b["key"].to_pylist() == scores(10, "both")["key"].to_pylist()
    assert (found.only_a, found.only_b) == (3, 2)
    assert pair(a, b, "train").a.num_rows == 0


def test_the_interval_of_independent_scans_is_student_s():
    values = np.random.default_rng(0).normal(0.3, 1, 25)
    expected = stats.t.interval(0.95, 24, loc=values.mean(), scale=stats.sem(values))
    assert interval(values, np.arange(25)) == pytest.approx(expected)


def test_scans_of_one_patient_say_no_more_than_one_scan():
    values = np.random.default_rng(0).normal(0, 1, 12)
    alone = interval(values, np.arange(12))
    fivefold = interval(np.repeat(values, 5), np.repeat(np.arange(12), 5))
    assert fivefold == pytest.approx(alone)
    naive = interval(np.repeat(values, 5), np.arange(60))
    assert naive[1] - naive[0] < 0.6 * (fivefold[1] - fivefold[0])  # type: ignore[operator]


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(20), 4)
    hits = 0
    for _ in range(400):
        low, high = interval(rng.normal(0, 1, 20)[patients] + rng.normal(0, 1, 80), patients)
        assert low is not None
        assert high is not None
        hits += low <= 0 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_one_patient_has_no_interval():
    found = difference(np.array([1.0, 2.0]), np.array([2.0, 2.0]), np.array([0, 0]))
    assert found is not None
    assert (found.difference, found.low, found.high, found.better, found.worse) == (0.5, None, None, 0.5, 0.0)


def test_what_is_not_defined_in_either_is_left_out():
    nan = float("nan")
    found = difference(np.array([1.0, nan, 3.0]), np.array([2.0, 2.0, nan]), np.arange(3))
    assert found is not None
    assert (found.scans, found.difference) == (1, 1.0)
    assert difference(np.array([nan]), np.array([1.0]), np.arange(1)) is None


def test_a_scan_whose_patient_nobody_knows_stands_alone():
    assert len(set(clusters_of(["x", "y", "z"], {"x": "", "y": "p", "z": "p"}).tolist())) == 2
    assert len(set(clusters_of(["x", "y", "z"], None).tolist())) == 3
