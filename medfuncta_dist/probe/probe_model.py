"""A trained linear classifier or MLP as one safetensors file, and its answers for other latents.

Layers are ``0.weight`` (latent, hidden) and ``0.bias``, then ``1.weight`` …, with ReLU between them. The first includes
the standardisation of latents, the last a target's unit, so nothing else is needed to apply it:

    model = safetensors.numpy.load_file("probe.safetensors")
    hidden = np.maximum(latents @ model["0.weight"] + model["0.bias"], 0)
    scores = hidden @ model["1.weight"] + model["1.bias"]

A k-NN classifier is never stored: it is made of latents, which are patient data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from sklearn.pipeline import Pipeline

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.fields import safe_tensors
from medfuncta_dist.probe.probe_record import read_probe
from medfuncta_dist.probe.question import Kind, Question
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE

FORMAT_VERSION = 1
KIND = "probe"
STORABLE = ("linear", "mlp")
LARGEST = 2**28
"""Bytes that a reader accepts: 64 M numbers."""

Layer = tuple[Float[np.ndarray, "into out"], Float[np.ndarray, " out"]]


@dataclass(frozen=True, eq=False)
class ProbeModel:
    """``network``: the digest of the shared network whose latents it takes."""

    kind: Kind
    places: tuple[int, ...]
    """Of the labels, or of the target, in each scan's list."""
    classes: tuple[int, ...]
    """Of the kind ``classes``, in the order of the last layer's scores."""
    classifier: str
    network: str
    layers: tuple[Layer, ...]

    @classmethod
    def open(cls, storage: str, run: str) -> ProbeModel:
        """That of a run by its name, below the storage root (a path or an s3:// URI).

        Raises:
            ObjectMissingError: nothing was probed, or by k-NN alone.
            FormatVersionError: another version wrote it.
            IntegrityError: it is damaged, or not the one that the probe's record names.
        """
        store, path = ObjectStore(storage), model_path(run)
        named = read_probe(store, run).get("model")
        data = store.read(path, limit=LARGEST)
        if not isinstance(named, dict) or sha256_bytes(data) != named.get("sha256"):
            what = (
                "the probe's model is not the one that probe.json names: it is damaged, or of a probe that was killed"
            )
            raise IntegrityError(what, where=store.uri(path), do="run probe again; it takes the latents that are there")
        return cls.from_bytes(data, store.uri(path))

    def predict(self, latents: Float[np.ndarray, "scan latent"]) -> Float[np.ndarray, "scan ..."]:
        """Probabilities (scan, class) or (scan, label), or the target's values (scan)."""
        scores = np.asarray(latents, np.float32)
        for place, (weight, bias) in enumerate(self.layers):
            scores = (np.maximum(scores, 0) if place else scores) @ weight + bias
        if self.kind == "target":
            return np.asarray(scores[:, 0])
        if self.kind == "labels":
            return np.asarray(0.5 * (1 + np.tanh(scores / 2)))  # the logistic function, without overflow
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def to_bytes(self) -> bytes:
        """The file ``probe.safetensors``."""
        tensors = {}
        for place, (weight, bias) in enumerate(self.layers):
            tensors[f"{place}.weight"] = np.ascontiguousarray(weight, np.float32)
            tensors[f"{place}.bias"] = np.ascontiguousarray(bias, np.float32)
        about = {
            "format_version": FORMAT_VERSION,
            "question": self.kind,
            "places": list(self.places),
            "classes": list(self.classes),
            "classifier": self.classifier,
            "network": self.network,
        }
        # One entry: the library writes several in any order, and equal models are equal bytes.
        return safetensors.numpy.save(tensors, {KIND: json.dumps(about, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "") -> ProbeModel:
        """The model of a file's bytes. FormatVersionError for another version; IntegrityError where it is damaged."""
        try:
            metadata, tensors = safe_tensors.load(data)
        except ValueError as error:
            raise IntegrityError("the probe's model is not a safetensors file", where=where, do=RESTORE) from error
        about = _about(metadata, where)
        try:
            layers = _layers({name: tensor.numpy() for name, tensor in tensors.items()})
            places, classes = ([int(one) for one in about[name]] for name in ("places", "classes"))
            model = cls(about["question"], tuple(places), tuple(classes), about["classifier"], about["network"], layers)
            _require_whole(model)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("the probe's model is damaged", where=where, do=RESTORE) from error
        return model


def _about(metadata: dict[str, str], where: str) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(KIND, ""))
    except (ValueError, RecursionError):
        about = None
    version = about.get("format_version") if isinstance(about, dict) else None
    if not isinstance(about, dict) or version != FORMAT_VERSION:
        raise FormatVersionError(
            f"format_version {str(version)[:20]} is not a probe's model of version {FORMAT_VERSION}",
            where=where,
            do="read it with the version of medfuncta-dist that wrote it, or run probe again",
        )
    return about


def model_path(run: str) -> str:
    """Relative to the storage root."""
    return f"runs/{run}/report/probe.safetensors"


def model_of(fitted: Pipeline, question: Question, classifier: str, network: str) -> ProbeModel:
    """The layers of a fitted ``linear`` or ``mlp`` pipeline."""
    model = fitted.named_steps["model"]
    several = {"classes": _of_classes, "labels": _of_labels, "target": _of_target}[question.kind](model)
    classes = tuple(int(one) for one in model.classes_) if question.kind == "classes" else ()
    scale = fitted.named_steps["scale"]
    (weight, bias), *rest = several
    weight = weight / scale.scale_[:, None]
    first = (weight, bias - scale.mean_ @ weight)
    layers = tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in (first, *rest))
    return ProbeModel(question.kind, question.places, classes, classifier, network, layers)


def _of_classes(model: Any) -> list[Layer]:
    """Of two classes, scikit-learn has one score: that of the second, over a first of 0."""
    layers = _plain(model)
    weight, bias = layers[-1]
    if weight.shape[1] == 1:
        layers[-1] = (np.hstack([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), bias]))
    return layers


def _of_labels(model: Any) -> list[Layer]:
    """A classifier for each label: side by side in the first layer, each with its own part of the next."""
    each = [_plain(one) for one in model.estimators_]
    first = (np.hstack([one[0][0] for one in each]), np.concatenate([one[0][1] for one in each]))
    if len(each[0]) == 1:
        return [first]
    from scipy.linalg import block_diag

    return [first, (block_diag(*(one[1][0] for one in each)), np.concatenate([one[1][1] for one in each]))]


def _of_target(model: Any) -> list[Layer]:
    """In the target's own unit: scikit-learn's regressor answers in standard deviations."""
    layers, unit = _plain(model.regressor_), model.transformer_
    weight, bias = layers[-1]
    return [*layers[:-1], (weight * unit.scale_, bias * unit.scale_ + unit.mean_)]


def _plain(model: Any) -> list[Layer]:
    if hasattr(model, "coefs_"):
        return list(zip(model.coefs_, model.intercepts_, strict=True))
    weight = np.atleast_2d(model.coef_).T
    return [(weight, np.broadcast_to(np.ravel(model.intercept_), weight.shape[1]))]


def _layers(tensors: dict[str, np.ndarray]) -> tuple[Layer, ...]:
    count = len(tensors) // 2
    if set(tensors) != {f"{place}.{part}" for place in range(count) for part in ("weight", "bias")}:
        raise ValueError("other tensors")
    return tuple((tensors[f"{place}.weight"], tensors[f"{place}.bias"]) for place in range(count))


def _require_whole(model: ProbeModel) -> None:
    """ValueError unless each layer takes what the one before it gives, and the last gives an answer of its kind."""
    if model.kind not in get_args(Kind) or not model.layers or not model.places:
        raise ValueError("no kind, or no layer")
    answers = {"classes": len(model.classes), "labels": len(model.places), "target": 1}[model.kind]
    widths: Sequence[int] = [weight.shape[0] for weight, _ in model.layers[1:]] + [answers]
    for (weight, bias), width in zip(model.layers, widths, strict=True):
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != (width,) or weight.dtype != np.float32:
            raise ValueError("layers that do not fit")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("numbers that are not finite")
