"""Every classifier on every kind of features: settings chosen on training scans, scores on the test split. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import clone
from sklearn.metrics import roc_curve
from sklearn.pipeline import Pipeline

from medfuncta_dist.probe.bootstrap import differences, interval, resampled
from medfuncta_dist.probe.chosen_settings import Chosen, Labelled, choose, folds, joined, quiet, trial_scans
from medfuncta_dist.probe.classifiers import SIMPLEST_FIRST, Candidate, candidates, predictions
from medfuncta_dist.probe.question import Answers, Question
from medfuncta_dist.probe.simplest_choice import best_place, simplest_place
from medfuncta_dist.probe.weighted_scores import Scores, bins_of, confusion, label_scores, scores_of

LATENTS = "latents"
ROC_POINTS = np.linspace(0, 1, 51)
"""False positive rates at which a curve is told."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """One description of the same scans: latents, or what they are compared with."""

    name: str
    train: Float[np.ndarray, "train feature"]
    test: Float[np.ndarray, "test feature"]
    validation: Float[np.ndarray, "validation feature"] | None = None


@dataclass(frozen=True, eq=False)
class Respondents:
    """Answers and patients of the scans of one split."""

    answers: Answers
    patients: Int[np.ndarray, " scan"]

    def described(self, features: np.ndarray) -> Labelled:
        """With their features."""
        return Labelled(features, self.answers, self.patients)


@dataclass(frozen=True, eq=False)
class Trial:
    """Who is asked what, and how settings are chosen: on ``validation`` where it is given, by folds otherwise."""

    question: Question
    train: Respondents
    test: Respondents
    validation: Respondents | None
    classifiers: Sequence[str]
    seed: int

    @property
    def classes(self) -> np.ndarray:
        """All that occur, sorted; empty unless classes are asked for."""
        if self.question.kind != "classes":
            return np.array([], int)
        parts = [one.answers for one in (self.train, self.test, self.validation) if one is not None]
        return np.unique(np.concatenate(parts))


@dataclass(frozen=True, eq=False)
class Result:
    """One classifier on one set of features."""

    features: str
    candidate: Candidate
    chosen: Chosen
    fitted: Pipeline
    found: np.ndarray
    """Of the test scans: see ``Question``."""
    resampled: Scores


def run_trial(trial: Trial, sets: Sequence[FeatureSet], on_result: Callable[[Result], None]) -> list[Result]:
    """In the order of the sets, and of the classifiers in each; ``on_result`` is told of each as it is done."""
    found = []
    for features in sets:
        for result in _each(trial, features):
            found.append(result)
            on_result(result)
    return found


def _each(trial: Trial, features: FeatureSet) -> Iterator[Result]:
    train = trial.train.described(features.train)
    if trial.validation is not None and features.validation is not None:
        tried, splits = joined(train, trial.validation.described(features.validation))
    else:
        tried = trial_scans(train)
        splits = folds(trial.question, tried, trial.seed)
    for candidate in candidates(trial.question, trial.classifiers, len(features.train), trial.seed):
        chosen = choose(candidate, trial.question, tried, splits, trial.seed)
        with quiet():
            fitted = clone(candidate.pipeline).set_params(**chosen.settings).fit(train.features, train.answers)
        found = predictions(fitted, trial.question, features.test, trial.classes)
        score = partial(scores_of, trial.question, trial.classes, trial.test.answers, found)
        scores = resampled(score, trial.test.patients, trial.seed)
        yield Result(features.name, candidate, chosen, fitted, found, scores)


def best(results: Sequence[Result], names: Sequence[str]) -> Result | None:
    """Of the named classifiers on latents, the simplest whose score on held-out training scans is within a standard
    error of the best; the test split has no say. The first of them where nothing could be tried."""
    mine = [one for one in results if one.features == LATENTS and one.candidate.name in names]
    scores = [math.nan if one.chosen.score is None else one.chosen.score for one in mine]
    if (place := best_place(scores)) is None:
        return next(iter(mine), None)
    complexities = [SIMPLEST_FIRST.index(one.candidate.name) for one in mine]
    chosen = simplest_place(scores, complexities, mine[place].chosen.error or 0.0)
    assert chosen is not None
    return mine[chosen]


def as_json(trial: Trial, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each result with its intervals, and those on latents with the difference from the other features."""
    by_name = {(one.features, one.candidate.name): one for one in results}
    rows = []
    for one in results:
        others = {f: o for (f, name), o in by_name.items() if name == one.candidate.name and f != LATENTS}
        against = {f: differences(one.resampled, o.resampled) for f, o in others.items()}
        rows.append(
            {
                "features": one.features,
                "classifier": one.candidate.name,
                "balanced": one.candidate.balanced,
                "settings": one.candidate.simple(one.chosen.settings),
                "trial_score": one.chosen.score,
                "trial_error": one.chosen.error,
                "scores": {name: interval(values) for name, values in one.resampled.items()},
                "against": against if one.features == LATENTS else {},
                **curves(trial, one.found),
            }
        )
    return rows


def curves(trial: Trial, found: np.ndarray) -> dict[str, Any]:
    """``confusion`` (of classes), ``by_label`` (of labels), ``roc`` and ``calibration``; null where not defined."""
    kind, answers = trial.question.kind, trial.test.answers
    if kind == "target":
        return {"confusion": None, "by_label": None, "roc": None, "calibration": None}
    if kind == "labels":
        each = zip(trial.question.places, answers.T, found.T, strict=True)
        pooled = calibration(answers.ravel() == 1, found.ravel())
        by_label = [_of_label(place, truth, values) for place, truth, values in each]
        return {"confusion": None, "by_label": by_label, "roc": _roc(answers.T == 1, found.T), "calibration": pooled}
    places, count = np.searchsorted(trial.classes, answers), len(trial.classes)
    predicted = found.argmax(axis=1)
    counts = confusion(places, predicted, count, np.ones((1, len(places))))[0].astype(int).tolist()
    which = range(1, 2) if count == 2 else range(count)
    roc = _roc([places == one for one in which], [found[:, one] for one in which])
    surest = calibration(predicted == places, found.max(axis=1))
    return {"confusion": counts, "by_label": None, "roc": roc, "calibration": surest}


def calibration(happened: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Of each bin that is not empty: its scans, their mean probability, and how often it came true."""
    bins = bins_of(probability)
    inside = [bins == one for one in np.unique(bins)]
    return [
        {"scans": int(i.sum()), "probability": float(probability[i].mean()), "true": float(happened[i].mean())}
        for i in inside
    ]


def _of_label(place: int, truth: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    scores = label_scores(truth, probability, np.ones((1, len(truth))))
    return {"label": place, "scans": int(truth.sum()), "scores": {n: interval(v)["value"] for n, v in scores.items()}}


def _roc(truths: Iterable[np.ndarray], scores: Iterable[np.ndarray]) -> list[float] | None:
    """Mean true positive rates at ``ROC_POINTS``, over what has scans of both kinds."""
    found = []
    for truth, values in zip(truths, scores, strict=True):
        if 0 < truth.sum() < len(truth):
            false_rate, true_rate, _ = roc_curve(truth, values)
            found.append(np.interp(ROC_POINTS, false_rate, true_rate))
    return [float(rate) for rate in np.mean(found, axis=0)] if found else None


def described(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of ``as_json`` as lines for people."""
    return [f"  {one['features']:<8} {one['classifier']:<20} {_figures(one['scores'])}" for one in results]


SHOWN = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "mae": "MAE", "r2": "R²"}


def _figures(scores: Mapping[str, Mapping[str, float | None]]) -> str:
    shown = ((words, scores[name]) for name, words in SHOWN.items() if name in scores)
    return "   ".join(f"{words} {_interval(found)}" for words, found in shown)


def _interval(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "–"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found["low"] is not None else ""
