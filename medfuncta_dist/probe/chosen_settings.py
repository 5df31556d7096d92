"""The settings of a classifier, chosen on training scans alone: by cross-validation in which all scans of a patient are
in one fold, or on a validation split where one is named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupKFold, ParameterGrid, StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from medfuncta_dist.evaluation.baselines import evenly
from medfuncta_dist.probe.bootstrap import resampled
from medfuncta_dist.probe.classifiers import Candidate, predictions
from medfuncta_dist.probe.question import Answers, Question
from medfuncta_dist.probe.simplest_choice import best_place, simplest_place
from medfuncta_dist.probe.weighted_scores import Score, Scores, Weights, skill_of

FOLDS = 5
MOST_TRIED = 5000
"""Training scans of the trials, taken evenly; the chosen settings are then trained on all."""
CRITERION = {"classes": "brier_skill", "labels": "brier_skill", "target": "r2"}
"""Brier skill, since what a classifier gives are probabilities: AUROC sees their order alone, and tells nothing apart
where it is near 1 for everything. Unlike a log loss it is bounded, so that a k-NN whose votes agree may be wrong."""
ERROR_RESAMPLES = 200
"""They tell a standard error to 5 %."""

Split = tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held_out"]]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of some scans with their answers and patients."""

    features: Float[np.ndarray, "scan feature"]
    answers: Answers
    patients: Int[np.ndarray, " scan"]

    def take(self, rows: Any) -> Labelled:
        """Some of them."""
        return Labelled(self.features[rows], self.answers[rows], self.patients[rows])


@dataclass(frozen=True)
class Chosen:
    """``score``: the criterion's mean over held-out parts; ``error``: its standard error, by resampled patients. None
    where nothing could be tried."""

    settings: dict[str, Any]
    score: float | None
    error: float | None = None


@dataclass(frozen=True, eq=False)
class _Tried:
    """Settings, and how good their predictions of the held-out parts are."""

    settings: dict[str, Any]
    skill: Score
    score: float


def choose(candidate: Candidate, question: Question, scans: Labelled, splits: list[Split], seed: int = 0) -> Chosen:
    """The simplest settings whose mean score over the splits is within a standard error of the best
    (``simplest_choice.py``). The error is that of resampled patients, all splits together."""
    default = {name: values[0] for name, values in candidate.grid.items()}
    tried = [_tried(candidate, question, scans, splits, one) for one in ParameterGrid(dict(candidate.grid))]
    scores = [one.score for one in tried]
    if (best := best_place(scores)) is None:
        return Chosen(default, None)
    rows = np.concatenate([held_out for _, held_out in splits])
    patients = np.unique(scans.patients[rows], return_inverse=True)[1]
    complexities = [candidate.complexity(one.settings) for one in tried]
    place = simplest_place(scores, complexities, _error(tried[best].skill, patients, seed))
    assert place is not None
    return Chosen(tried[place].settings, scores[place], _error(tried[place].skill, patients, seed))


def _tried(
    candidate: Candidate, question: Question, scans: Labelled, splits: list[Split], settings: dict[str, Any]
) -> _Tried:
    pipeline = clone(candidate.pipeline).set_params(**settings)
    parts = [(scans.answers[test], _predicted(pipeline, question, scans, (train, test))) for train, test in splits]

    def skill(weights: Weights) -> Scores:
        """The weights are those of all held-out scans, one split after the other."""
        ends = np.cumsum([len(answers) for answers, _ in parts])[:-1]
        each = [
            np.full(len(own), np.nan) if found is None else skill_of(question, scans.answers, answers, found, own)
            for (answers, found), own in zip(parts, np.split(weights, ends, axis=1), strict=True)
        ]
        return {CRITERION[question.kind]: np.mean(each, axis=0)}

    held_out = sum(len(answers) for answers, _ in parts)
    score = float(skill(np.ones((1, held_out)))[CRITERION[question.kind]][0]) if parts else math.nan
    return _Tried(settings, skill, score)


def _predicted(pipeline: Pipeline, question: Question, scans: Labelled, split: Split) -> np.ndarray | None:
    """Of the held-out part; None where these settings cannot be had, as more neighbours than scans."""
    train, held_out = split
    with quiet():
        try:
            fitted = clone(pipeline).fit(scans.features[train], scans.answers[train])
            return predictions(fitted, question, scans.features[held_out], np.unique(scans.answers))
        except ValueError:
            return None


def _error(skill: Score, patients: Int[np.ndarray, " scan"], seed: int) -> float:
    """The standard deviation of the score over resamples in which it is defined."""
    (values,) = resampled(skill, patients, seed, ERROR_RESAMPLES).values()
    drawn = values[1:][np.isfinite(values[1:])]
    return float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0


def trial_scans(scans: Labelled) -> Labelled:
    """As many as trials take."""
    return scans.take(evenly(range(len(scans.features)), MOST_TRIED))


def folds(question: Question, scans: Labelled, seed: int) -> list[Split]:
    """Splits of the scans; empty where there are too few patients, or too few with a class, for two folds."""
    patients = len(np.unique(scans.patients))
    if question.kind != "classes":
        count = min(FOLDS, patients)
        return list(GroupKFold(count).split(scans.features, groups=scans.patients)) if count > 1 else []
    of_class = [len(np.unique(scans.patients[scans.answers == one])) for one in np.unique(scans.answers)]
    count = min(FOLDS, *of_class)
    if count < 2:
        return []
    by_patient = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with quiet():
        found = list(by_patient.split(scans.features, scans.answers, scans.patients))
    # A class whose scans are one patient's can still be in one fold alone: nothing could be learned of it then.
    whole = len(np.unique(scans.answers))
    return [one for one in found if len(np.unique(scans.answers[one[0]])) == whole and len(one[1])]


def joined(train: Labelled, validation: Labelled) -> tuple[Labelled, list[Split]]:
    """Both together, and the split that trains on the one and scores the other."""
    parts = [np.concatenate(pair) for pair in zip(_fields(train), _fields(validation), strict=True)]
    rows = np.arange(len(parts[0]))
    return Labelled(*parts), [(rows[: len(train.features)], rows[len(train.features) :])]


def _fields(scans: Labelled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scans.features, scans.answers, scans.patients


@contextmanager
def quiet() -> Iterator[None]:
    """An MLP trains for so many passes, whether or not it has converged; a rare label may be missing in a fold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        yield
