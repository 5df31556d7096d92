from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.probe.classifiers import TUNED, BalancedNeighbours, Scaler, candidates, predictions
from medfuncta_dist.probe.question import Question

CLASSES = Question("classes", (0,))


def latents(labels: np.ndarray, seed: int, scale: float = 1.0) -> np.ndarray:
    """Two clusters far apart in the first number; the others are noise, one of them loud."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype(np.float32)
    noise[:, 0] = 0.2 * noise[:, 0] + labels * 2
    noise[:, 5] *= scale
    return noise


def accuracies(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    found = {}
    for one in candidates(CLASSES, TUNED, len(train), 0):
        fitted = one.pipeline.fit(train, labels)
        found[one.name] = float((predictions(fitted, CLASSES, test, np.array([0, 1])).argmax(1) == truth).mean())
    return found


def test_classifiers_find_what_latents_hold_and_the_majority_does_not():
    train, test = (np.arange(200) % 3 == 0).astype(int), (np.arange(60) % 3 == 0).astype(int)
    found = accuracies(latents(train, 0, 100.0), train, latents(test, 1, 100.0), test)
    assert list(found) == ["majority class", "1-NN", "5-NN", "logistic regression", "k-nn", "linear", "mlp"]
    assert found["majority class"] == pytest.approx(2 / 3)
    # The loud number would drown the telling one, were the latents not standardised.
    assert min(found[name] for name in ("5-NN", "logistic regression", *TUNED)) > 0.9


def test_labels_that_latents_know_nothing_of_stay_near_chance():
    train, test = np.arange(200) % 2, np.arange(400) % 2
    noise = np.random.default_rng(0).normal(size=(600, 6))
    assert all(0.4 < one < 0.6 for one in accuracies(noise[:200], train, noise[200:], test).values())


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    draws = np.random.default_rng(0)
    labels = np.repeat([0, 1], [450, 50])
    features = draws.normal(size=(500, 2)) + labels[:, None]
    fitted = {one.name: one.pipeline.fit(features, labels) for one in candidates(CLASSES, TUNED, 500, 0)}
    found = {name: one.predict(features)[labels == 1].mean() for name, one in fitted.items()}
    assert found["logistic regression"] < 0.5
    assert all(found[name] > 0.65 for name in TUNED)


def test_votes_are_divided_by_the_share_of_their_class():
    x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 0, 1])
    fitted = BalancedNeighbours(4).fit(x, y)
    assert fitted.predict_proba([[0.0]]) == pytest.approx(np.array([[0.5, 0.5]]))
    assert BalancedNeighbours(2).fit(x, y).predict([[3.0]]) == [1]


def test_several_labels_and_targets_are_answered_in_their_shape():
    draws = np.random.default_rng(0)
    features = draws.normal(size=(80, 4))
    several, target = Question("labels", (0, 1)), Question("target", (0,))
    answers = (features[:, :2] > 0).astype(int)
    for one in candidates(several, TUNED, 80, 0):
        assert predictions(one.pipeline.fit(features, answers), several, features, np.array([])).shape == (80, 2)
    names = [one.name for one in candidates(target, TUNED, 80, 0)]
    assert names == ["training mean", *TUNED]
    for one in candidates(target, TUNED, 80, 0):
        found = predictions(one.pipeline.fit(features, 100 + features[:, 0]), target, features, np.array([]))
        assert found.shape == (80,)
        assert abs(found - 100).max() < 10


def test_a_class_that_was_not_trained_on_has_probability_zero():
    features = np.arange(6.0)[:, None]
    fitted = candidates(CLASSES, ["linear"], 6, 0)[-1].pipeline.fit(features, np.array([0, 0, 0, 2, 2, 2]))
    found = predictions(fitted, CLASSES, features, np.array([0, 1, 2]))
    assert (found[:, 1] == 0).all()
    assert found.sum(1) == pytest.approx(np.ones(6))


def test_settings_that_smooth_more_are_simpler():
    knn, linear, mlp = candidates(CLASSES, TUNED, 100, 0)[4:]
    for one, simple, flexible in (
        (knn, {"model__n_neighbors": 45}, {"model__n_neighbors": 5}),
        (linear, {"model__C": 0.001}, {"model__C": 1.0}),
        (mlp, {"model__alpha": 10.0}, {"model__alpha": 0.01}),
    ):
        scales = [{"scale__each": True}, {"scale__each": False}]
        least, most = ([one.complexity(settings | scale) for scale in scales] for settings in (simple, flexible))
        assert least[0] == least[1] < most[0] == most[1]


def test_few_scans_have_few_neighbours():
    few = candidates(CLASSES, TUNED, 3, 0)
    assert [one.name for one in few] == ["majority class", "1-NN", "logistic regression", *TUNED]
    assert few[3].grid["model__n_neighbors"] == [1]


@pytest.mark.parametrize("each", [True, False])
def test_features_are_scaled_one_by_one_or_all_together(each: bool):
    features = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * [1, 10, 0] + [5, 0, 2]
    scaled = Scaler(each).fit_transform(features)
    assert scaled.mean(0) == pytest.approx(np.zeros(3), abs=1e-6)
    assert scaled.std(0)[:2] == pytest.approx([1, 1] if each else features.std(0)[:2] / np.sqrt(features.var(0).mean()))
    assert np.isfinite(Scaler(each).fit_transform(np.ones((4, 2)))).all()
