"""A run over scans that a basis field represents well, its network made in closed form without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.fields.basis import BasisSpec, init_params
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.network.core_settings import field_spec
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import run_file

LATENT = 12
FIELD = {
    "kind": "basis",
    "layers": 3,
    "hidden": 24,
    "latent": LATENT,
    "features": 24,
    "omega_first": 3,
    "omega_last": 4,
}
COUNTS = {"train": 160, "test": 40}


def pictures(count: int, seed: int) -> np.ndarray:
    """8-bit pictures: random smooth surfaces of falling strength, and some noise."""
    rng = np.random.default_rng(seed)
    at = np.linspace(0, np.pi, 12)
    waves = [np.outer(np.cos(i * at), np.cos(j * at)) / (1 + i + j) ** 1.5 for i in range(5) for j in range(5)]
    smooth = np.tensordot(rng.normal(size=(count, len(waves))), np.stack(waves), 1)
    return np.clip(128 + 22 * smooth + rng.normal(scale=2, size=smooth.shape), 0, 255).astype(np.uint8)


def targets(count: int, seed: int) -> torch.Tensor:
    """The pictures as (scan, point, channel) in [0, 1]."""
    return torch.from_numpy(pictures(count, seed).reshape(count, -1, 1).astype(np.float32) / 255)


def described(folder: Path, **fit: Any) -> RunFile:
    """Its run file."""
    settings = {"method": "exact", "rate": None, "scans_per_task": 32, "batch": 16, **fit}
    return run_file(
        folder, kind="basis", field=FIELD, meta={"selection_ratio": 1.0}, fit=settings, data={"shard_scans": 64}
    )


def basis_run(folder: Path, counts: dict[str, int] | None = None, **fit: Any) -> RunFile:
    """A run that only lacks its latents."""
    run = described(folder, **fit)
    (folder / "archive").mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for seed, (split, count) in enumerate((counts or COUNTS).items()):
        arrays[f"{split}_images"] = pictures(count, seed)
        arrays[f"{split}_labels"] = np.arange(count).reshape(-1, 1) % 2
    np.savez(folder / "archive" / "scans.npz", **arrays)
    pack(run, map_here, lambda _: None)
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    commit_network(store, run, snapshot, in_closed_form(run, snapshot), None, None, fence=ALONE)
    return run


def in_closed_form(run: RunFile, snapshot: Snapshot) -> Trained:
    """The principal latents of features as they are before training, from the packed training scans."""
    store, cache = WorkerSettings.of(run).open()
    picks = [Pick(shard, row) for shard in snapshot.shards("train") for row in range(shard.samples)]
    scans = np.stack([sample.values().reshape(-1, 1) for sample in read_samples(store, cache, picks)])
    return principal_of(run, torch.from_numpy(scans))


def principal_of(run: RunFile, scans: torch.Tensor) -> Trained:
    """The same, from training scans (scan, point, channel)."""
    spec = field_spec(run)
    assert isinstance(spec, BasisSpec)
    params = init_params(spec, torch.Generator().manual_seed(0))
    learner = BasisLearner(spec, params, grid(run.data.shape), run.field.latent, run.meta.ridge, 64)
    return learner.trained(params, [scans])
