"""The classifiers and regressors of a probe: scikit-learn pipelines, and what cross-validation tries of each.

Features get mean 0 and standard deviation 1 by the training scans. The fixed ones, which have no settings to choose and
count every scan alike, take each by itself. ``TUNED`` classifiers count classes alike, however rare, as if all were
equally frequent, and may also take all features by one common scale, which keeps distances between scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from medfuncta_dist.probe.question import Kind, Question

TUNED = ("k-nn", "linear", "mlp")
SIMPLEST_FIRST = ("linear", "k-nn", "mlp")
"""By how freely their answers can bend: one plane, means over neighbours, a network."""
NEIGHBOURS = (1, 5)
"""Of the fixed ones. 1: as in the MedFuncta paper; 5: steadier where classes overlap."""
MOST_ITERATIONS = 2000
"""Of L-BFGS: standardised features converge in a few hundred."""
UNITS, EPOCHS = 128, 40
"""Of the MLP: one hidden layer, and passes over the training scans."""

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "k-nn": {"n_neighbors": (5, 15, 45)},
    "linear": {"C": (1.0, 0.1, 0.01, 0.001)},
    "ridge": {"alpha": (1.0, 10.0, 100.0, 1000.0)},
    "mlp": {"alpha": (0.01, 1.0, 10.0)},
}
"""What is tried, the most flexible first: it is taken where nothing can be tried. ``C`` and ``alpha`` are
scikit-learn's."""
EACH = "scale__each"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pipeline, and the values to try of its settings: empty where there is nothing to choose."""

    name: str
    pipeline: Pipeline
    grid: Mapping[str, Sequence[float]]
    """The first values are taken where nothing can be tried."""
    balanced: bool

    def complexity(self, settings: Mapping[str, Any]) -> int:
        """Larger for more flexible settings: smoothing counts, and by which scale features are taken does not."""
        return -sum(list(values).index(settings[name]) for name, values in self.grid.items() if name != EACH)

    def simple(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Chosen settings without the pipeline's prefixes."""
        return {name.rpartition("__")[2]: value for name, value in settings.items()}


class Scaler(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Mean 0, and standard deviation 1 of ``each`` feature, or of all of them together.

    Numbers of a basis field's latent, and of PCA, are coordinates: those of little variance hold little of a scan, and
    by a scale of their own they would weigh as much as the first ones.
    """

    def __init__(self, each: bool = True) -> None:
        self.each = each

    def fit(self, x: Any, y: Any = None) -> Scaler:
        """Mean and scale of the rows."""
        found = StandardScaler().fit(x)
        self.mean_, common = found.mean_, np.sqrt(found.var_.mean()) or 1.0
        self.scale_ = found.scale_ if self.each else np.full_like(found.scale_, common)
        return self

    def transform(self, x: Any) -> Any:
        """Rows of the same type."""
        return ((x - self.mean_) / self.scale_).astype(np.asarray(x).dtype, copy=False)


class BalancedNeighbours(KNeighborsClassifier):  # type: ignore[misc]
    """k-NN whose votes are divided by how frequent their class is."""

    def fit(self, x: Any, y: Any) -> BalancedNeighbours:
        """As the base class's."""
        super().fit(x, y)
        self.shares_ = np.unique(y, return_counts=True)[1] / len(y)
        return self

    def predict_proba(self, x: Any) -> Any:
        """(scan, class)."""
        votes = super().predict_proba(x) / self.shares_
        return votes / votes.sum(axis=1, keepdims=True)

    def predict(self, x: Any) -> Any:
        """The class of most weight."""
        return self.classes_[self.predict_proba(x).argmax(axis=1)]


class BalancedNetwork(MLPClassifier):  # type: ignore[misc]
    """An MLP trained with scans weighted so that classes count alike."""

    def fit(self, x: Any, y: Any) -> BalancedNetwork:
        """As the base class's."""
        super().fit(x, y, sample_weight=compute_sample_weight("balanced", y))
        return self


def candidates(question: Question, names: Sequence[str], scans: int, seed: int) -> list[Candidate]:
    """The baseline, the fixed ones, then the named of ``TUNED``, for that many training scans."""
    fixed = [Candidate(name, _pipeline(model), {}, balanced=False) for name, model in _fixed(question.kind, scans)]
    return [*fixed, *(_tuned(question.kind, name, scans, seed) for name in TUNED if name in names)]


def _fixed(kind: Kind, scans: int) -> list[tuple[str, Any]]:
    if kind == "target":
        return [("training mean", DummyRegressor())]
    if kind == "labels":
        return [("most frequent", OneVsRestClassifier(DummyClassifier(strategy="prior")))]
    return [
        ("majority class", DummyClassifier(strategy="most_frequent")),
        *((f"{k}-NN", KNeighborsClassifier(k)) for k in NEIGHBOURS if k <= scans),
        ("logistic regression", LogisticRegression(max_iter=MOST_ITERATIONS)),
    ]


def _tuned(kind: Kind, name: str, scans: int, seed: int) -> Candidate:
    if kind == "target":
        return _regressor(name, scans, seed)
    models = {
        "k-nn": BalancedNeighbours(),
        "linear": LogisticRegression(class_weight="balanced", max_iter=MOST_ITERATIONS),
        "mlp": BalancedNetwork(hidden_layer_sizes=(UNITS,), max_iter=EPOCHS, random_state=seed),
    }
    several = kind == "labels"
    pipeline = _pipeline(OneVsRestClassifier(models[name]) if several else models[name])
    grid = _grid(name, "model__estimator__" if several else "model__", scans)
    return Candidate(name, pipeline, grid, balanced=True)


def _regressor(name: str, scans: int, seed: int) -> Candidate:
    models = {
        "k-nn": KNeighborsRegressor(),
        "linear": Ridge(),
        "mlp": MLPRegressor(hidden_layer_sizes=(UNITS,), max_iter=EPOCHS, random_state=seed),
    }
    whole = TransformedTargetRegressor(models[name], transformer=StandardScaler())
    grid = _grid("ridge" if name == "linear" else name, "model__regressor__", scans)
    return Candidate(name, _pipeline(whole), grid, balanced=False)


def _grid(name: str, prefix: str, scans: int) -> dict[str, list[float]]:
    # Of a few scans, as of three folds' training part, k-NN can only take so many.
    most = max(1, scans // 2)
    tried = {key: [v for v in values if key != "n_neighbors" or v <= most] for key, values in GRIDS[name].items()}
    return {f"{prefix}{key}": values or [1] for key, values in tried.items()} | {EACH: [True, False]}


def _pipeline(model: Any) -> Pipeline:
    return Pipeline([("scale", Scaler()), ("model", model)])


def predictions(fitted: Pipeline, question: Question, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """As ``Question`` says: float64 probabilities, or numbers. ``classes``: sorted, and more than were trained on where
    other scans have others; those have probability 0."""
    if question.kind == "target":
        return np.asarray(fitted.predict(features), np.float64)
    found = np.asarray(fitted.predict_proba(features), np.float64)
    if question.kind == "labels" or found.shape[1] == len(classes):
        return found
    whole = np.zeros((len(found), len(classes)))
    whole[:, np.searchsorted(classes, fitted.classes_)] = found
    return whole
