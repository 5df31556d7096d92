"""A small run with everything before the fit stage done: really packed shards, and a committed random network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.network.committed_network import store_network
from medfuncta_dist.shards.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.records import write_record
from tests.writers import write_medmnist

LATENT = 24
COUNTS = {"train": 22, "test": 9}


def run_file(folder: Path, storage: str | None = None, **sections: Any) -> RunFile:
    """A run over 12 x 12 pictures in shards of 8 scans, fitted in ranges of 5 and batches of 3."""
    data = {
        "source": str(folder / "archive" / "*.npz"),
        "shape": [12, 12],
        "shard_scans": 8,
        "private": str(folder / "private"),
        **sections.pop("data", {}),
    }
    fit = {
        "method": "sgd",
        "steps": 4,
        "rate": 1.0,
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
    """A random network for the run's scans."""
    sizes = {"coords": len(run.data.shape), "channels": run.data.channels, "layers": 3, "hidden": 16, "latent": LATENT}
    spec = SirenSpec.linear(**{**sizes, **changes}, omega_first=5, omega_last=10)
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    params = init_params(spec, torch.Generator().manual_seed(0))
    return SharedNetwork(spec, params, dict(snapshot.contract), {}, snapshot.digest, "test")


def publish(run: RunFile, shared: SharedNetwork) -> None:
    """Commit a network as the train stage does."""
    store = ObjectStore(run.storage)
    body = {"digest": shared.digest, "files": store_network(store, run.name, shared)}
    write_record(store, f"runs/{run.name}/network/commit.json", "network", body)


def ready(folder: Path, **sections: Any) -> RunFile:
    """A run that only lacks its latents."""
    run = run_file(folder, **sections)
    packed(run, folder)
    publish(run, network(run))
    return run
