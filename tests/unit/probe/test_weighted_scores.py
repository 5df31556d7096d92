from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from medfuncta_dist.probe.question import Question
from medfuncta_dist.probe.weighted_scores import (
    BINS,
    auroc,
    brier_skill,
    calibration_error,
    class_scores,
    label_scores,
    scores_of,
    skill_of,
    target_scores,
)


def made(seed: int, scans: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, probabilities with ties, and weights in which some scans do not count."""
    draws = np.random.default_rng(seed)
    places = np.concatenate([np.arange(classes), draws.integers(classes, size=scans - classes)])
    coarse = draws.integers(1, 5, size=(scans, classes)).astype(float)
    return places, coarse / coarse.sum(axis=1, keepdims=True), draws.integers(0, 4, size=(3, scans)).astype(float)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4))
def test_each_score_is_scikit_learns_with_the_same_weights(seed: int, classes: int):
    places, found, weights = made(seed, 40, classes)
    scores, predicted = class_scores(places, found, weights), found.argmax(axis=1)
    for i, counted in enumerate(weights):
        if len(np.unique(places[counted > 0])) < classes:
            continue
        whole = np.repeat(np.arange(40), counted.astype(int))
        truth, answers, probability = places[whole], predicted[whole], found[whole]
        assert scores["accuracy"][i] == pytest.approx(metrics.accuracy_score(truth, answers))
        assert scores["balanced_accuracy"][i] == pytest.approx(metrics.balanced_accuracy_score(truth, answers))
        assert scores["macro_f1"][i] == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
        area = metrics.roc_auc_score(truth, probability[:, 1] if classes == 2 else probability, multi_class="ovr")
        assert scores["auroc"][i] == pytest.approx(area)
        brier = np.square(probability - np.eye(classes)[truth]).sum(axis=1).mean()
        assert scores["brier"][i] == pytest.approx(brier)


def test_scores_of_a_label_are_those_of_its_probability():
    places, found, weights = made(1, 60, 2)
    scores, ones = label_scores(places, found[:, 1], weights), np.ones((1, 60))
    assert label_scores(places, found[:, 1], ones)["macro_f1"][0] == pytest.approx(
        metrics.f1_score(places, found[:, 1] >= 0.5)
    )
    brier = [metrics.brier_score_loss(places, found[:, 1], sample_weight=w) for w in weights]
    assert scores["brier"] == pytest.approx(brier)


def test_scores_of_a_target_are_scikit_learns_also_of_large_numbers():
    draws = np.random.default_rng(0)
    truth = draws.normal(size=50) + 1e4
    found, weights = truth + draws.normal(size=50), draws.integers(0, 3, size=(4, 50)).astype(float)
    scores = target_scores(truth, found, weights)
    for i, counted in enumerate(weights):
        whole = np.repeat(np.arange(50), counted.astype(int))
        assert scores["mae"][i] == pytest.approx(metrics.mean_absolute_error(truth[whole], found[whole]))
        assert scores["rmse"][i] == pytest.approx(metrics.root_mean_squared_error(truth[whole], found[whole]))
        assert scores["r2"][i] == pytest.approx(metrics.r2_score(truth[whole], found[whole]))
        assert scores["correlation"][i] == pytest.approx(np.corrcoef(truth[whole], found[whole])[0, 1])
    constant = target_scores(truth, np.full(50, 1e4), weights)
    assert np.isnan(constant["correlation"]).all()


def test_probabilities_that_hold_have_no_calibration_error_and_sure_wrong_ones_all_of_it():
    ones = np.ones((1, 1000))
    right = np.arange(1000) % 4 < 3
    assert calibration_error(right, np.full(1000, 0.75), ones)[0] == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.zeros(1000, bool), np.ones(1000), ones)[0] == pytest.approx(1)
    mixed = np.where(right, 0.2, 0.9)
    by_hand = 0.75 * 0.8 + 0.25 * 0.9
    assert BINS == 15
    assert calibration_error(right, mixed, ones)[0] == pytest.approx(by_hand)


def test_what_is_not_defined_is_no_number_and_does_not_spoil_a_mean():
    ones = np.ones((1, 4))
    assert np.isnan(auroc(np.ones(4, bool), np.arange(4.0), ones)[0])
    question = Question("labels", (0, 1))
    answers = np.array([[0, 1], [1, 1], [0, 1], [1, 1]])
    found = np.array([[0.1, 0.9], [0.8, 0.9], [0.2, 0.9], [0.7, 0.9]])
    assert scores_of(question, np.array([]), answers, found, ones)["auroc"][0] == 1


def test_skill_is_1_of_a_perfect_answer_and_0_of_equal_probabilities_however_rare_a_class_is():
    places = np.repeat([0, 1, 2], [90, 9, 1])
    ones = np.ones((1, 100))
    assert brier_skill(places, np.eye(3)[places], ones) == pytest.approx([1])
    assert brier_skill(places, np.full((100, 3), 1 / 3), ones) == pytest.approx([0])
    always_the_first = np.tile([1.0, 0, 0], (100, 1))
    assert brier_skill(places, always_the_first, ones) == pytest.approx([1 - (2 * 2 / 3) / (2 / 3)])


def test_no_answers_have_a_better_expected_skill_than_the_probabilities_of_equally_frequent_classes():
    draws = np.random.default_rng(0)
    true = draws.uniform(size=200_000)
    places = (draws.uniform(size=len(true)) < true).astype(int)

    def skill(probability: np.ndarray) -> float:
        return float(brier_skill(places, np.stack([1 - probability, probability], 1), np.ones((1, len(true))))[0])

    best = skill(true)
    assert best > skill(np.sqrt(true))
    assert best > skill(0.5 + 0.8 * (true - 0.5))
    assert best > skill((true > 0.5).astype(float))


def test_a_weight_is_so_many_scans_and_two_classes_are_a_label():
    places, found, weights = made(3, 40, 2)
    whole = np.repeat(np.arange(40), weights[0].astype(int))
    alone = brier_skill(places[whole], found[whole], np.ones((1, len(whole))))
    assert brier_skill(places, found, weights)[:1] == pytest.approx(alone)
    of_label = skill_of(Question("labels", (0,)), np.array([]), places[:, None], found[:, 1:], weights)
    assert of_label == pytest.approx(brier_skill(places, found, weights))
    assert skill_of(Question("classes", (0,)), np.array([3, 8]), 3 + 5 * places, found, weights) == pytest.approx(
        of_label
    )
