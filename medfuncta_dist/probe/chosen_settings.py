"""The settings of a classifier, chosen on training scans alone: by cross-validation in which all scans of a patient are
in one fold, or on a validation split where one is named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from medfuncta_dist.evaluation.baselines import evenly
from medfuncta_dist.probe.classifiers import Candidate, predictions
from medfuncta_dist.probe.question import Answers, Question
from medfuncta_dist.probe.weighted_scores import scores_of

FOLDS = 5
MOST_TRIED = 5000
"""Training scans of the trials, taken evenly; the chosen settings are then trained on all."""
CRITERION = {"classes": "auroc", "labels": "auroc", "target": "r2"}

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
    """``score``: the criterion's mean over held-out parts; None where nothing could be tried."""

    settings: dict[str, Any]
    score: float | None


def choose(candidate: Candidate, question: Question, scans: Labelled, splits: list[Split]) -> Chosen:
    """The settings of the best mean score over the splits; of equal ones, the first."""
    default = {name: values[0] for name, values in candidate.grid.items()}
    if not splits:
        return Chosen(default, None)

    classes = np.unique(scans.answers)

    def criterion(fitted: Pipeline, features: np.ndarray, answers: np.ndarray) -> float:
        found, ones = predictions(fitted, question, features, classes), np.ones((1, len(features)))
        return float(scores_of(question, classes, answers, found, ones)[CRITERION[question.kind]][0])

    grid = {name: list(values) for name, values in candidate.grid.items()}
    search = GridSearchCV(candidate.pipeline, grid, scoring=criterion, cv=splits, refit=False)
    with quiet():
        search.fit(scans.features, scans.answers)
    scores = np.nan_to_num(search.cv_results_["mean_test_score"], nan=-np.inf)
    best = int(scores.argmax())
    if not np.isfinite(scores[best]):
        return Chosen(default, None)
    return Chosen(dict(search.cv_results_["params"][best]), float(scores[best]))


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
