from __future__ import annotations

import math

import pytest

from medfuncta_dist.probe.simplest_choice import best_place, simplest_place

SCORES = [0.90, 0.93, 0.95, 0.94]
COMPLEXITIES = [0, 1, 2, 3]


@pytest.mark.parametrize(("error", "place"), [(0.0, 2), (0.015, 2), (0.03, 1), (0.06, 0), (9.0, 0)])
def test_the_simplest_within_one_standard_error_of_the_best_is_taken(error: float, place: int):
    assert simplest_place(SCORES, COMPLEXITIES, error) == place


def test_of_equally_simple_ones_the_better_is_taken_then_the_first():
    assert simplest_place([0.8, 0.9, 0.85, 0.9], [0, 0, 0, 0], 1.0) == 1


def test_scores_that_are_not_defined_are_never_taken():
    assert best_place([math.nan, -math.inf, 0.1]) == 2
    assert simplest_place([math.nan, 0.5, 0.6], [0, 1, 2], 0.2) == 1
    assert best_place([math.nan]) is None
    assert simplest_place([math.nan], [0], 1.0) is None
    assert simplest_place([], [], 1.0) is None
