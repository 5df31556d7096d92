"""How good predictions are, for many weightings of the same scans at once: one of ones gives the score itself, the
others are the resamples of a bootstrap. Pure numpy.

Every function takes ``weights`` (resample, scan), how often each scan counts, and returns a value per resample; NaN
where it is not defined, as AUROC is without scans of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from medfuncta_dist.probe.question import Answers, Question

BINS = 15
"""Of calibration, equally wide: as most papers on it have."""

Weights: TypeAlias = Float[np.ndarray, "resample scan"]
PerResample: TypeAlias = Float[np.ndarray, " resample"]
Scores: TypeAlias = dict[str, PerResample]


def scores_of(question: Question, classes: np.ndarray, answers: Answers, found: np.ndarray, weights: Weights) -> Scores:
    """All scores of a question's predictions. ``classes``: the sorted classes, for the kind ``classes``."""
    if question.kind == "target":
        return target_scores(answers, found, weights)
    if question.kind == "labels":
        return _mean_over([label_scores(answers[:, i], found[:, i], weights) for i in range(answers.shape[1])])
    places = np.searchsorted(classes, answers)
    return class_scores(places, found, weights)


def skill_of(question: Question, known: Answers, answers: Answers, found: np.ndarray, weights: Weights) -> PerResample:
    """What settings are chosen by, 1 at best: of a target R², else ``brier_skill``, of several labels their mean.

    ``known``: the answers of all scans, held out here or not. They tell the classes, and the spread of a target, that
    is the unit of its errors: a part of few scans, or a resample of them, may have hardly any of its own.
    """
    if question.kind == "target":
        errors = _ratio(weights @ np.square(answers - found), weights.sum(axis=1))
        return np.asarray(1 - _ratio(errors, np.full(len(errors), np.var(known))))
    if question.kind == "labels":
        both = np.stack([1 - found, found], axis=2)
        return _nanmean([brier_skill(answers[:, i], both[:, i], weights) for i in range(answers.shape[1])])
    return brier_skill(np.searchsorted(np.unique(known), answers), found, weights)


def brier_skill(
    places: Int[np.ndarray, " scan"], probabilities: Float[np.ndarray, "scan class"], weights: Weights
) -> PerResample:
    """1 − the Brier score, each class counted alike, in units of that of equal probabilities: 1 at best, 0 of knowing
    nothing. What R² is for a target. The best expected value is that of the true probabilities, were classes equally
    frequent."""
    count = probabilities.shape[1]
    losses = np.square(probabilities - np.eye(count)[places]).sum(axis=1)
    of_class = [_ratio(weights[:, own] @ losses[own], weights[:, own].sum(axis=1)) for own in _members(places)]
    return np.asarray(1 - _nanmean(of_class) / max(1 - 1 / count, np.finfo(float).tiny))


def class_scores(
    places: Int[np.ndarray, " scan"], probabilities: Float[np.ndarray, "scan class"], weights: Weights
) -> Scores:
    """``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``auroc`` (one against the rest, mean over classes), ``ece``
    and ``brier`` (sum over classes: 0 to 2). ``places``: of each scan's class."""
    predicted = probabilities.argmax(axis=1)
    counts = confusion(places, predicted, probabilities.shape[1], weights)
    hits, total = np.trace(counts, axis1=1, axis2=2), weights.sum(axis=1)
    truth = np.eye(probabilities.shape[1])[places]
    surest = probabilities.max(axis=1)
    return {
        "accuracy": _ratio(hits, total),
        "balanced_accuracy": _balanced(counts),
        "macro_f1": _macro_f1(counts),
        "auroc": auroc_over_classes(places, probabilities, weights),
        "ece": calibration_error(predicted == places, surest, weights),
        "brier": _ratio(weights @ np.square(probabilities - truth).sum(axis=1), total),
    }


def label_scores(truth: Int[np.ndarray, " scan"], probability: Float[np.ndarray, " scan"], weights: Weights) -> Scores:
    """The same of one label that is 0 or 1; ``macro_f1`` is the F1 of 1, and ``brier`` goes from 0 to 1."""
    predicted = (probability >= 0.5).astype(int)
    counts, total = confusion(truth, predicted, 2, weights), weights.sum(axis=1)
    return {
        "accuracy": _ratio(np.trace(counts, axis1=1, axis2=2), total),
        "balanced_accuracy": _balanced(counts),
        "macro_f1": _f1(counts)[:, 1],
        "auroc": auroc(truth == 1, probability, weights),
        "ece": calibration_error(truth == 1, probability, weights),
        "brier": _ratio(weights @ np.square(probability - truth), total),
    }


def target_scores(truth: Float[np.ndarray, " scan"], found: Float[np.ndarray, " scan"], weights: Weights) -> Scores:
    """``mae`` and ``rmse`` in the target's unit, ``r2``, and ``correlation`` (Pearson's)."""
    total = weights.sum(axis=1)
    squares, around = weights @ np.square(truth - found), _spread(truth, truth, weights)
    both = np.sqrt(around * _spread(found, found, weights))
    return {
        "mae": _ratio(weights @ np.abs(truth - found), total),
        "rmse": np.sqrt(_ratio(squares, total)),
        "r2": 1 - _ratio(squares, around),
        "correlation": _ratio(_spread(truth, found, weights), np.where(both > 1e-12 * around, both, 0)),
    }


def confusion(
    places: Int[np.ndarray, " scan"], predicted: Int[np.ndarray, " scan"], classes: int, weights: Weights
) -> Float[np.ndarray, "resample class class"]:
    """How often scans of the class in the row were taken for the class in the column."""
    cells = places * classes + predicted
    return _sums(cells, classes**2, weights).reshape(len(weights), classes, classes)


def auroc_over_classes(
    places: Int[np.ndarray, " scan"], probabilities: Float[np.ndarray, "scan class"], weights: Weights
) -> PerResample:
    """Mean over the classes that have scans; of two classes, that of the second."""
    which = range(1, 2) if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return _nanmean([auroc(places == one, probabilities[:, one], weights) for one in which])


def auroc(truth: np.ndarray, scores: Float[np.ndarray, " scan"], weights: Weights) -> PerResample:
    """The share of pairs of a true and an untrue scan in which the true one has the higher score; ties count half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    true, untrue = (
        np.add.reduceat(weights[:, order] * truth[order].astype(float), starts, axis=1),
        np.add.reduceat(weights[:, order] * (~truth[order]).astype(float), starts, axis=1),
    )
    below = np.cumsum(untrue, axis=1) - untrue / 2
    return _ratio((true * below).sum(axis=1), true.sum(axis=1) * untrue.sum(axis=1))


def calibration_error(happened: np.ndarray, probability: Float[np.ndarray, " scan"], weights: Weights) -> PerResample:
    """The expected calibration error: in each bin, how far the mean probability is from how often it came true."""
    difference = _sums(bins_of(probability), BINS, weights * (happened - probability))
    return _ratio(np.abs(difference).sum(axis=1), weights.sum(axis=1))


def bins_of(probability: Float[np.ndarray, " scan"]) -> Int[np.ndarray, " scan"]:
    """The bin of each probability, 0 to ``BINS`` − 1."""
    return np.asarray(np.minimum((probability * BINS).astype(int), BINS - 1))


def _sums(cells: np.ndarray, count: int, weights: Weights) -> Float[np.ndarray, "resample cell"]:
    """The weights of each cell's scans."""
    scans = len(cells)
    membership = scipy.sparse.csr_array((np.ones(scans), (np.arange(scans), cells)), shape=(scans, count))
    return np.asarray((membership.T @ weights.T).T)


def _members(places: Int[np.ndarray, " scan"]) -> list[np.ndarray]:
    """Which scans are of each class that has some."""
    return [places == one for one in np.unique(places)]


def _balanced(counts: Float[np.ndarray, "resample class class"]) -> PerResample:
    """Mean recall over the classes that have scans."""
    recall = _ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))
    return _nanmean(list(recall.T))


def _macro_f1(counts: Float[np.ndarray, "resample class class"]) -> PerResample:
    """Mean over the classes that have scans or were predicted."""
    occurs = counts.sum(axis=2) + counts.sum(axis=1) > 0
    return _nanmean(list(np.where(occurs, _f1(counts), np.nan).T))


def _f1(counts: Float[np.ndarray, "resample class class"]) -> Float[np.ndarray, "resample class"]:
    both = counts.sum(axis=2) + counts.sum(axis=1)
    return np.asarray(np.nan_to_num(_ratio(2 * np.diagonal(counts, axis1=1, axis2=2), both)))


def _spread(one: np.ndarray, two: np.ndarray, weights: Weights) -> PerResample:
    """Σ w (a − ā)(b − b̄), by differences: the products of large numbers would leave nothing."""
    total = weights.sum(axis=1, keepdims=True)
    left, right = (values - weights @ values[:, None] / total for values in (one, two))
    return np.asarray((weights * left * right).sum(axis=1))


def _mean_over(parts: list[Scores]) -> Scores:
    return {name: _nanmean([part[name] for part in parts]) for name in parts[0]}


def _nanmean(parts: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack(parts)
    defined = ~np.isnan(stacked)
    return _ratio(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """NaN where the divisor is 0."""
    undefined = np.full(np.broadcast(over, under).shape, np.nan)
    return np.asarray(np.divide(over, under, out=undefined, where=np.asarray(under) != 0))


Score = Callable[[Weights], Scores]
"""The scores of one set of predictions, by weighting."""
