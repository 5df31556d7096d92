"""A finished prior as two files, and back: ``prior.safetensors`` and ``prior.json``, whose SHA-256 is the digest.

runs/<run>/prior/<prior digest>/prior.safetensors, prior.json      written first
runs/<run>/prior/commit.json                                       the record (kind "prior") that makes it the run's
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import safetensors.torch
import torch

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.fields import safe_tensors
from medfuncta_dist.fields.params import Params
from medfuncta_dist.prior.denoiser import DenoiserSpec
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.prior_latents import Appearance, Classes
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.promised import read_promised
from medfuncta_dist.storage.publish import Guard, NewRecord, publish
from medfuncta_dist.version import __version__

FORMAT_VERSION = 1
KIND = "prior"
WEIGHTS_FILE, DESCRIPTION_FILE = "prior.safetensors", "prior.json"
LARGEST_DESCRIPTION, LARGEST_WEIGHTS = 2**20, 2**32
"""Bytes. A usual prior has a few thousand and 20 million."""
TRAIN_AGAIN = "delete the run's folder `prior` and run train-prior again"


@dataclass(frozen=True)
class Prior:
    """A generative model over latents, with all that drawing from it needs. Tensors are float32 on the CPU."""

    spec: DenoiserSpec
    params: Params
    coordinates: MetricCoordinates
    classes: Classes
    appearance: Appearance
    identity: str
    """Digest of what it was trained with: settings, latents, network."""
    settings: dict[str, Any]
    """The section ``prior`` of the run file."""
    network_digest: str
    """Of the network that decodes its latents."""
    table_digest: str
    """Of the latents that it was trained on."""
    judgement: dict[str, Any]
    """How far its samples are from training scans, and what a classifier learns from them (``judgement.py``)."""
    code_version: str = __version__

    @cached_property
    def weights(self) -> bytes:
        """``prior.safetensors``."""
        return safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in (self.params | self.coordinates.tensors()).items()}
        )

    @cached_property
    def description(self) -> bytes:
        """``prior.json``."""
        body = {
            "format_version": FORMAT_VERSION,
            "kind": KIND,
            **{name: asdict(getattr(self, name)) for name in ("spec", "classes", "appearance")},
            **{name: getattr(self, name) for name in _PLAIN},
            "weights": {"file": WEIGHTS_FILE, "size": len(self.weights), "sha256": sha256_bytes(self.weights)},
        }
        return json.dumps(body, sort_keys=True, indent=1, allow_nan=False).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``prior.json``."""
        return hashlib.sha256(self.description).hexdigest()

    @classmethod
    def from_files(cls, weights: bytes, description: bytes, where: str) -> Prior:
        """The inverse. FormatVersionError for another version; IntegrityError where the files do not belong together,
        or a tensor is missing, superfluous or of another shape."""
        body = _parsed(description, where)
        if body["weights"].get("sha256") != sha256_bytes(weights):
            raise _damaged(f"{WEIGHTS_FILE} is not the file that {DESCRIPTION_FILE} names", where)
        try:
            tensors = safe_tensors.load(weights)[1]
            coordinates = MetricCoordinates.from_tensors(tensors)
        except ValueError as error:
            raise _damaged(f"{WEIGHTS_FILE} holds no prior: {error}", where) from error
        spec = typed(DenoiserSpec, body["spec"], DESCRIPTION_FILE, where, TRAIN_AGAIN)
        params = {name: tensor for name, tensor in tensors.items() if not name.startswith("coordinates.")}
        classes = typed(Classes, body["classes"], DESCRIPTION_FILE, where, TRAIN_AGAIN)
        if {n: tuple(t.shape) for n, t in params.items()} != spec.shapes() or spec.classes != len(classes.labels):
            raise _damaged(f"{WEIGHTS_FILE} and the architecture in {DESCRIPTION_FILE} differ", where)
        if spec.numbers != len(coordinates.deviations) or not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise _damaged(f"{WEIGHTS_FILE} holds other numbers than {DESCRIPTION_FILE} says", where)
        if not isinstance(body["judgement"].get("copied"), float):
            raise _damaged(f"{DESCRIPTION_FILE} does not say how many samples are copies", where)
        appearance = typed(Appearance, body["appearance"], DESCRIPTION_FILE, where, TRAIN_AGAIN)
        return cls(spec, params, coordinates, classes, appearance, **{name: body[name] for name in _PLAIN})


_PLAIN = ("identity", "settings", "network_digest", "table_digest", "judgement", "code_version")
_OBJECTS = ("spec", "classes", "appearance", "weights", "settings", "judgement")
_TEXTS = ("identity", "network_digest", "table_digest", "code_version")
_FIELDS: dict[str, type] = dict.fromkeys(_OBJECTS, dict) | dict.fromkeys(_TEXTS, str)


@dataclass(frozen=True)
class PriorRecord:
    """The commit record's body. ``parts``: SHA-256 of the parts of the latent table that it was trained on."""

    digest: str
    identity: str
    network_digest: str
    table_digest: str
    parts: tuple[str, ...]


def prior_folder(run: str) -> str:
    """Folder of a run's prior, relative to the storage root."""
    return f"runs/{run}/prior"


def record_path(run: str) -> str:
    """Path of its commit record."""
    return f"{prior_folder(run)}/commit.json"


def commit_prior(store: ObjectStore, run: str, prior: Prior, parts: tuple[str, ...], fence: Guard) -> PriorRecord:
    """Write both files, then the record. LeaseLostError where another driver has taken the run over."""
    folder = f"{prior_folder(run)}/{prior.digest}"
    for name, data in ((WEIGHTS_FILE, prior.weights), (DESCRIPTION_FILE, prior.description)):
        store.write(f"{folder}/{name}", data)
        if store.size(f"{folder}/{name}") != len(data):
            where = store.uri(f"{folder}/{name}")
            raise IntegrityError("a file was not stored whole", where=where, do="run train-prior again: it resumes")
    record = PriorRecord(prior.digest, prior.identity, prior.network_digest, prior.table_digest, parts)
    publish(store, fence, NewRecord(record_path(run), KIND, {**asdict(record), "parts": list(parts)}))
    return record


def committed_prior(store: ObjectStore, run: str) -> PriorRecord | None:
    """The record of a run's prior; None before there is one. IntegrityError where it is damaged."""
    try:
        return read_as(PriorRecord, store, record_path(run), KIND)
    except ObjectMissingError:
        return None


def load_prior(store: ObjectStore, run: str, record: PriorRecord) -> Prior:
    """The prior that a record names. IntegrityError where it is another one."""
    folder, what = f"{prior_folder(run)}/{record.digest}", "a file of the prior"
    where = store.uri(folder)
    weights = read_promised(store, f"{folder}/{WEIGHTS_FILE}", what, TRAIN_AGAIN, limit=LARGEST_WEIGHTS)
    text = read_promised(store, f"{folder}/{DESCRIPTION_FILE}", what, TRAIN_AGAIN, limit=LARGEST_DESCRIPTION)
    if sha256_bytes(text) != record.digest:
        raise _damaged("the prior is not the one that its commit record names", where)
    return Prior.from_files(weights, text, where)


def cpu_params(params: Mapping[str, torch.Tensor]) -> Params:
    """Parameters as they are stored."""
    return {name: tensor.detach().to("cpu", torch.float32) for name, tensor in params.items()}


def _parsed(description: bytes, where: str) -> dict[str, Any]:
    body = strict_json.parse_object(description, DESCRIPTION_FILE, where, TRAIN_AGAIN)
    if body.get("kind") != KIND:
        raise _damaged(f"{DESCRIPTION_FILE} does not describe a prior", where)
    if body.get("format_version") != FORMAT_VERSION:
        raise FormatVersionError(
            f"{DESCRIPTION_FILE} has format_version {body.get('format_version')!r}, this version reads "
            f"{FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    for name, kind in _FIELDS.items():
        if not isinstance(body.get(name), kind):
            raise _damaged(f"{DESCRIPTION_FILE} has no valid {name}", where)
    return body


def _damaged(what: str, where: str) -> IntegrityError:
    return IntegrityError(what, where=where, do=TRAIN_AGAIN)
