"""A small run with everything before the fit stage done: really packed shards, and a committed random network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.basis import MAP, BasisSpec
from medfuncta_dist.fields.field_kinds import init_params
from medfuncta_dist.fields.network_record import network_folder
from medfuncta_dist.fields.params import Params, linear_omegas
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.network.committed_network import record_path, store_network
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import EventLog
from tests.records import write_record
from tests.writers import write_medmnist

LATENT = 24
SIZES = {"layers": 3, "hidden": 16, "latent": LATENT}
FIELD = SIZES | {"omegas": [5.0, 7.5]}
"""The run file's section of the networks below: a stage of the command compares the two."""
"""Of `network`, where a run's field section must say the same."""
FEATURES = 32
"""Of a basis field."""
FIT: dict[str, dict[str, Any]] = {
    "siren": {"method": "sgd", "steps": 4, "rate": 1.0},
    "basis": {"method": "exact", "steps": 1, "closed_form": False},
}
COUNTS = {"train": 22, "test": 9}


def run_file(folder: Path, storage: str | None = None, kind: str = "siren", **sections: Any) -> RunFile:
    """A run over 12 x 12 pictures in shards of 8 scans, fitted in ranges of 5 and batches of 3."""
    if kind == "basis":
        sections["field"] = {"kind": kind, **SIZES, "features": FEATURES} | sections.get("field", {})
    data = {
        "source": str(folder / "archive" / "*.npz"),
        "shape": [12, 12],
        "shard_scans": 8,
        "private": str(folder / "private"),
        **sections.pop("data", {}),
    }
    fit = {
        **FIT[kind],
        "batch": 3,
        "scans_per_task": 5,
        "min_psnr": 5.0,
        **sections.pop("fit", {}),
    }
    cluster = {"cache": str(folder / "cache")}
    storage = storage or str(folder / "storage")
    return RunFile.model_validate(
        {"name": "small", "storage": storage, "data": data, "fit": fit, "cluster": cluster, **sections}
    )


def packed(run: RunFile, folder: Path, seed: int = 0, counts: dict[str, int] | None = None) -> None:
    """Write an archive file and pack what is new."""
    (folder / "archive").mkdir(exist_ok=True)
    write_medmnist(folder / "archive" / f"scans-{seed}.npz", (12, 12), counts or COUNTS, seed)
    pack(run, map_here, lambda _: None)


def network(run: RunFile, **changes: Any) -> SharedNetwork:
    """A random network for the run's scans, of the run's kind of field."""
    sizes = {"coords": len(run.data.shape), "channels": run.data.channels, **SIZES}
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    whole = _basis if run.field.kind == "basis" else _siren
    spec, tensors, extras = whole(sizes | changes, torch.Generator().manual_seed(0))
    return SharedNetwork(spec, tensors, dict(snapshot.contract), {}, snapshot.digest, "test", extras)


def _siren(sizes: dict[str, Any], generator: torch.Generator) -> tuple[SirenSpec, Params, Params]:
    spec = SirenSpec.linear(**sizes, omega_first=5, omega_last=10)
    return spec, init_params(spec, generator), {}


def _basis(sizes: dict[str, Any], generator: torch.Generator) -> tuple[BasisSpec, Params, Params]:
    omegas = linear_omegas(sizes["layers"], 5, 10)
    spec = BasisSpec(**sizes, features=FEATURES, omegas=omegas, mapped=True)
    map_ = torch.linalg.qr(torch.randn(FEATURES, spec.latent, generator=generator))[0]
    variances = torch.linspace(1, 0.01, spec.latent)
    return spec, init_params(spec, generator) | {MAP: map_}, {"latent.variances": variances}


def publish(run: RunFile, shared: SharedNetwork) -> None:
    """Commit a network as the train stage does."""
    store = ObjectStore(run.storage)
    body = {"digest": shared.digest, "files": store_network(store, network_folder(run.name), shared)}
    write_record(store, f"runs/{run.name}/network/commit.json", "network", body)


def record_training(run: RunFile, losses: Mapping[str, Mapping[int, float]]) -> None:
    """What training leaves besides the network: figures in its record, and the losses of each attempt, by step."""
    store = ObjectStore(run.storage)
    dataset = load_snapshot(store, run.dataset, None).digest
    figures = {"step": run.train.steps, "loss": 0.1, "psnr": 20.0, "dataset_digest": dataset, "run_digest": "0" * 64}
    body = read_record(store, record_path(run.name), "network")
    write_record(store, record_path(run.name), "network", body | figures)
    for attempt, steps in losses.items():
        log = EventLog(store, run.name, attempt)
        for step, loss in steps.items():
            log.log(step, {"loss": loss})
        log.close()


def ready(folder: Path, kind: str = "siren", **sections: Any) -> RunFile:
    """A run that only lacks its latents."""
    run = run_file(folder, kind=kind, **sections)
    packed(run, folder)
    publish(run, network(run))
    return run
