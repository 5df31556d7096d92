from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medfuncta_dist.probe.chosen_settings import MOST_TRIED, Chosen, Labelled, choose, folds, joined, trial_scans
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
    assert by_patient.score < 0.1
    assert by_scan.score > 0.8


def skill(some: Labelled, splits: list, **settings: object) -> Chosen:
    """Of these settings alone."""
    one = candidate("linear")
    return choose(replace(one, grid={name: [value] for name, value in settings.items()}), CLASSES, some, splits)


def test_the_simplest_settings_that_are_hardly_worse_than_the_best_are_chosen():
    some = scans(patients=40)
    splits = folds(CLASSES, some, 0)
    chosen = choose(candidate("linear"), CLASSES, some, splits)
    assert set(chosen.settings) == {"model__C", "scale__each"}
    each = {
        (c, one): skill(some, splits, model__C=c, scale__each=one)
        for c in (1.0, 0.1, 0.01, 0.001)
        for one in (True, False)
    }
    best = max(each.values(), key=lambda one: one.score)
    assert best.error is not None
    assert 0.01 < best.error < 0.1
    near = {settings for settings, one in each.items() if one.score >= best.score - best.error}
    assert chosen.settings["model__C"] == min(c for c, _ in near)
    assert chosen.score == each[chosen.settings["model__C"], chosen.settings["scale__each"]].score


def test_where_only_flexible_settings_can_tell_they_are_chosen():
    draws = np.random.default_rng(0)
    corners = draws.integers(0, 2, (600, 2))
    some = Labelled(8 * corners + draws.normal(size=(600, 2)), corners.sum(1) % 2, np.arange(600))
    one = replace(candidate("k-nn"), grid={"model__n_neighbors": [5, 400]})
    found = choose(one, CLASSES, some, folds(CLASSES, some, 0))
    assert found.settings == {"model__n_neighbors": 5}, "400 neighbours see both classes everywhere"


def test_the_standard_error_counts_patients_and_not_their_scans():
    few = scans(patients=30, each=1)
    again = Labelled(*(np.repeat(part, 9, axis=0) for part in (few.features, few.answers, few.patients)))
    errors = [skill(some, folds(CLASSES, some, 0), model__C=0.1).error for some in (few, again)]
    many = scans(patients=400, each=1)
    assert errors[1] > 0.8 * errors[0], "a ninefold of scans tells no more"
    assert skill(many, folds(CLASSES, many, 0), model__C=0.1).error < 0.6 * min(errors)


def test_settings_that_cannot_be_had_are_not_chosen():
    some = scans(patients=4, each=2)
    one = replace(candidate("k-nn"), grid={"model__n_neighbors": [7, 3]})
    assert choose(one, CLASSES, some, folds(CLASSES, some, 0)).settings == {"model__n_neighbors": 3}


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


@pytest.mark.parametrize("count", [30, 50])
def test_the_standard_error_of_a_target_is_one_on_few_scans_too(count: int):
    draws = np.random.default_rng(0)
    features = draws.normal(size=(count, 2))
    some = Labelled(features, features[:, 0] ** 2, np.arange(count))
    question = Question("target", (0,))
    for name in ("linear", "k-nn"):
        chosen = choose(candidate(name, question), question, some, folds(question, some, 0))
        assert chosen.error is not None
        assert chosen.error < 1, "a resample of a part of ten scans may have hardly any spread: it is not the unit"
