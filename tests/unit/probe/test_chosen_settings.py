from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.probe.chosen_settings import MOST_TRIED, Labelled, choose, folds, joined, trial_scans
from medfuncta_dist.probe.classifiers import candidates
from medfuncta_dist.probe.question import Question

CLASSES = Question("classes", (0,))


def scans(seed: int = 0, patients: int = 30, each: int = 4) -> Labelled:
    """Classes by patient; the first feature tells them, and 20 others are noise."""
    draws = np.random.default_rng(seed)
    of_patient = np.arange(patients) % 2
    answers, groups = np.repeat(of_patient, each), np.repeat(np.arange(patients), each)
    features = draws.normal(size=(len(answers), 21))
    features[:, 0] += 2 * answers
    return Labelled(features, answers, groups)


def candidate(name: str, question: Question = CLASSES):
    return next(one for one in candidates(question, [name], 100, 0) if one.name == name)


@pytest.mark.parametrize("question", [CLASSES, Question("target", (0,))])
def test_a_patient_is_in_one_part_alone(question: Question):
    some = scans()
    found = folds(question, some, seed=0)
    assert len(found) == 5
    for train, held_out in found:
        assert not set(some.patients[train]) & set(some.patients[held_out])
    assert sorted(np.concatenate([held_out for _, held_out in found])) == list(range(120))


def test_what_only_tells_patients_apart_is_not_taken_for_a_finding():
    """Each patient's scans are alike, and classes are chance: a patient in two folds would look like success."""
    draws = np.random.default_rng(0)
    answers = np.repeat(draws.integers(0, 2, 60), 6)
    features = np.repeat(draws.normal(size=(60, 5)), 6, axis=0) + 0.01 * draws.normal(size=(360, 5))
    patients = np.repeat(np.arange(60), 6)
    near = candidate("k-nn")
    some = Labelled(features, answers, patients)
    by_patient = choose(near, CLASSES, some, folds(CLASSES, some, 0))
    alone = Labelled(features, answers, np.arange(360))
    by_scan = choose(near, CLASSES, alone, folds(CLASSES, alone, 0))
    assert by_patient.score is not None
    assert by_scan.score is not None
    assert by_patient.score < 0.65
    assert by_scan.score > 0.8


def test_the_best_setting_is_chosen():
    some = scans(patients=40)
    chosen = choose(candidate("linear"), CLASSES, some, folds(CLASSES, some, 0))
    assert set(chosen.settings) == {"model__C", "scale__each"}
    assert chosen.score is not None
    assert chosen.score > 0.8


def test_a_named_split_decides_and_is_not_trained_on():
    train, validation = scans(0), scans(1)
    both, ((rows, held_out),) = joined(train, validation)
    assert np.array_equal(both.features[rows], train.features)
    assert np.array_equal(both.features[held_out], validation.features)


def test_too_few_patients_leave_the_first_setting():
    few = Labelled(np.arange(4.0)[:, None], np.array([0, 0, 0, 1]), np.arange(4))
    assert folds(CLASSES, few, 0) == []
    assert choose(candidate("linear"), CLASSES, few, []).settings == {"model__C": 1.0, "scale__each": True}
    one = Labelled(np.arange(4.0)[:, None], np.arange(4.0), np.zeros(4, int))
    assert folds(Question("target", (0,)), one, 0) == []


def test_trials_take_a_bounded_number_of_scans():
    many = Labelled(np.zeros((2 * MOST_TRIED, 1)), np.zeros(2 * MOST_TRIED), np.arange(2 * MOST_TRIED))
    assert len(trial_scans(many).features) == MOST_TRIED
