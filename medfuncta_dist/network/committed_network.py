"""The shared network of a run: its architecture, its first parameters, and its committed files at the end.

runs/<name>/network/<network digest>/{network.safetensors,network.json}, then runs/<name>/network/commit.json (kind
"network"): two drivers never write one file with different bytes, and the one that holds the lease decides.
{"digest": <network digest>, "files": {<file>: {"path", "size", "sha256"}}, "step", "loss", "psnr",
 "dataset_digest", "run_digest"}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from medfuncta_dist import __version__
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.network_record import RECORD_FILE, files_below, network_folder
from medfuncta_dist.fields.shared_network import DESCRIPTION_FILE, WEIGHTS_FILE, SharedNetwork
from medfuncta_dist.fields.siren import FieldSpec, Params, init_params
from medfuncta_dist.meta.inner_rates import Rate, inner_rates, layer_rates
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner
from medfuncta_dist.network.core_settings import arithmetic_of, chunks_of
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

KIND = "network"


@dataclass(frozen=True)
class Committed:
    """What the commit record of a finished network says; ``loss`` and ``psnr`` (dB) are the last measured."""

    digest: str
    files: dict[str, dict[str, Any]]
    step: int
    loss: float | None
    psnr: float | None
    dataset_digest: str
    run_digest: str


def field_spec(run: RunFile) -> FieldSpec:
    """The architecture that a run file asks for."""
    section = run.field
    sizes: dict[str, Any] = {
        "coords": len(run.data.shape),
        "channels": run.data.channels,
        "layers": section.layers,
        "hidden": section.hidden,
        "latent": section.latent,
        "residual": section.residual,
        "modulate_first": section.modulate_first,
    }
    if section.omegas is not None:
        return FieldSpec(omegas=tuple(section.omegas), **sizes)
    return FieldSpec.linear(omega_first=section.omega_first, omega_last=section.omega_last, **sizes)


def new_learner(run: RunFile) -> MetaLearner:
    """The meta-learner before its first step: the same parameters for a seed on every rank and machine."""
    spec = field_spec(run)
    params = init_params(spec, torch.Generator().manual_seed(run.train.seed))
    learned = run.meta.rate_policy == "learned"
    coordinates, rates = grid(run.data.shape), first_rates(spec, run)
    chunks, arithmetic = chunks_of(run), arithmetic_of(run)
    return MetaLearner(spec, params, coordinates, rates, chunks=chunks, learn_rates=learned, arithmetic=arithmetic)


def first_rates(spec: FieldSpec, run: RunFile) -> Rate:
    """The inner rates that training starts from: one number, one a layer, or one a step where they are learned."""
    if run.meta.rate_policy == "layer":
        return layer_rates(spec, run.inner_rate)
    if run.meta.rate_policy == "learned":
        return torch.full((run.meta.inner_steps, 1), run.inner_rate)
    return run.inner_rate


def trained_rates(spec: FieldSpec, run: RunFile, params: Params) -> Rate:
    """The inner rates that belong to trained parameters: the learned ones, where they are learned."""
    return params[LOG_RATES].exp() if LOG_RATES in params else first_rates(spec, run)


def _stored_rates(spec: FieldSpec, run: RunFile, params: Params) -> Params:
    """What a network keeps beside θ for fitting: inner rates that are more than the one number in its description."""
    if run.meta.rate_policy == "scalar":
        return {}
    whole = inner_rates(spec, trained_rates(spec, run, params), params["layer.1.weight"]).to("cpu", torch.float32)
    whole = whole.expand(-1, -1, spec.latent)
    return {"inner.rates": (whole[:, 0] if whole.shape[1] == 1 else whole).contiguous()}


def commit_network(
    store: ObjectStore,
    run: RunFile,
    snapshot: Snapshot,
    params: Params,
    loss: float | None,
    psnr: float | None,
    fence: Guard,
) -> Committed:
    """Write the network's two files and then, past the fence, the record that makes them exist (LeaseLostError)."""
    inner = {"steps": run.meta.inner_steps, "rate": run.inner_rate, "selection_ratio": run.meta.selection_ratio}
    spec = field_spec(run)
    weights = {name: params[name].detach().to("cpu", torch.float32) for name in spec.shapes()}
    extras = _stored_rates(spec, run, params)
    network = SharedNetwork(spec, weights, dict(snapshot.contract), inner, snapshot.digest, __version__, extras)
    files = store_network(store, run.name, network)
    done = Committed(network.digest, files, run.train.steps, loss, psnr, snapshot.digest, run.digest())
    publish(store, fence, NewRecord(f"{network_folder(run.name)}/{RECORD_FILE}", KIND, asdict(done)))
    return done


def store_network(store: ObjectStore, run: str, network: SharedNetwork) -> dict[str, dict[str, Any]]:
    """Write a network's two files under its digest: what is there already has the same bytes.

    Returns what its commit record says of them. IntegrityError where storage did not keep them whole.
    """
    files = {}
    for name, data in network.to_files().items():
        path = f"{network_folder(run)}/{network.digest}/{name}"
        store.write(path, data)
        if (found := store.size(path)) != len(data):
            do = "see what the storage does to new files, then run train again: it goes on from its last checkpoint"
            raise IntegrityError(f"{len(data)} bytes were written, {found} arrived", where=store.uri(path), do=do)
        files[name] = {"path": path, "size": len(data), "sha256": sha256_bytes(data)}
    return files


def committed_network(store: ObjectStore, run: str) -> Committed | None:
    """The finished network of a run, if training ended. IntegrityError for a damaged record."""
    path = f"{network_folder(run)}/{RECORD_FILE}"
    try:
        done = read_as(Committed, store, path, KIND)
    except ObjectMissingError:
        return None
    files_below(asdict(done), (WEIGHTS_FILE, DESCRIPTION_FILE), store.uri(path), run)
    return done
