from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_reader import SampleReader, ShardCache
from medfuncta_dist.streaming.stream import scan_batches
from medfuncta_dist.task_map import map_here
from medfuncta_dist.training.validation import Validation, evenly_spread, held_out_split
from medfuncta_dist.training.world import World
from tests.kinds import BY_KIND
from tests.writers import write_ecg_csv, write_medmnist


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield World.from_process_group(torch.device("cpu"))
    dist.destroy_process_group()


def packed(folder: Path, source: Path, shape: list[int], kind: str = "siren", **telemetry: Any) -> RunFile:
    whole = {
        "name": "validated",
        "storage": str(folder / "store"),
        "data": {"source": str(source), "shape": shape, "private": str(folder / "private")},
        "field": {"kind": kind, "layers": 3, "hidden": 16, "latent": 16, "omega_first": 10, "omega_last": 30},
        "telemetry": telemetry,
    }
    run = parse(yaml.safe_dump(whole))
    pack(run, map_here, lambda _: None)
    return run


def measured(run: RunFile, folder: Path, world: World) -> Validation:
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    shards = snapshot.shards(held_out_split(snapshot) or "")
    reader = SampleReader(store, shards, ShardCache(store, folder / "cache", 10**9))
    ids = evenly_spread([shard.samples for shard in shards], 4)
    validation = Validation(run, scan_batches(reader, ids), world)
    learner = new_learner(run)
    scans = torch.rand(4, len(learner.coordinates), 1, generator=torch.Generator().manual_seed(0))
    trained = learner.trained(learner.params(), iter([scans]))
    assert validation.psnr(trained, learner.coordinates) > 0
    return validation


@BY_KIND
def test_a_picture_shows_a_held_out_scan_beside_its_reconstruction(tmp_path, alone, kind):
    write_medmnist(tmp_path / "images.npz", shape=(8, 12), counts={"train": 8, "val": 4})
    run = packed(tmp_path, tmp_path / "images.npz", [8, 12], kind, images=True)
    picture = measured(run, tmp_path, alone).picture
    assert picture is not None
    assert picture.shape == (8, 24, 1)
    first = np.load(tmp_path / "images.npz")["val_images"].astype(np.float32) / 255
    assert min(np.abs(picture[:, :12, 0] - scan).max() for scan in first) < 1e-6
    assert np.abs(picture[:, :12] - picture[:, 12:]).max() > 0


def test_no_picture_is_made_unless_the_run_file_asks_for_it(tmp_path, alone):
    write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 8, "val": 4})
    assert measured(packed(tmp_path, tmp_path / "images.npz", [8, 8]), tmp_path, alone).picture is None


@BY_KIND
def test_what_is_no_picture_has_none(tmp_path, alone, kind):
    write_ecg_csv(tmp_path / "beats.csv", rows=32, samples=40)
    run = packed(tmp_path, tmp_path / "beats.csv", [40], kind, images=True)
    assert measured(run, tmp_path, alone).picture is None


def test_scans_are_spread_over_the_whole_split():
    picked = evenly_spread([10, 10], 4)
    assert [(one.shard, one.row) for one in picked] == [(0, 0), (0, 5), (1, 0), (1, 5)]
    assert len(evenly_spread([2, 1], 10)) == 3
