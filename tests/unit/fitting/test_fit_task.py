"""One task, from a shard's bytes to its part and its commit record."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from medfuncta_dist.errors import FormatVersionError, StorageError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import FieldSpec, init_params
from medfuncta_dist.fitting import fit_task as worker_side
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_task import DAMAGED_SAMPLE, WRONG_SHAPE, FitTask, fit_task
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.fit import FitSettings
from medfuncta_dist.network.committed_network import NetworkRef, store_network
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.sample import encode
from medfuncta_dist.shards.shard_index import index_bytes
from medfuncta_dist.shards.shard_writer import ShardWriter
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import canonical_json, sha256_bytes, sha256_file
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from tests.unit.shards.samples import key_of

SHAPE, SCANS, BATCH = (2, 3), 11, 4
FOLDER = "runs/r/latents/t"
WITH_THESE_VERSIONS = "26.0.1"
"""pyarrow writes its own version into each Parquet file, so digests of parts hold for one version."""


def scan_of(row: int) -> Scan:
    """Scans of every stored type, with all that a row of the table is made of; the values are 0 or 1 throughout."""
    dtype = ("uint8", "int16", "float32")[row % 3]
    affine = np.diag([1.5, 2.0, 3.0 + row, 1.0]) if row % 2 else None
    array = np.full((2, *SHAPE), 100 * (row % 2), dtype)
    window = Window(0.0, 100.0) if row % 4 else Window(float(array.max()), float(array.max()))
    return Scan(array, (1.5, 1 / 3), affine, "MR" if row < 6 else "CT", window, tuple(range(row % 3)), row or None)


def members_of(row: int) -> tuple[bytes, bytes]:
    return encode(key_of(row), scan_of(row))


def with_meta(row: int, **fields: object) -> tuple[bytes, bytes]:
    """A sample whose metadata differs from what was packed."""
    npy, meta = members_of(row)
    return npy, json.dumps(json.loads(meta) | fields).encode()


BROKEN: dict[int, tuple[bytes, bytes]] = {
    2: encode(key_of(2), replace(scan_of(2), array=np.zeros((2, 3, 2), np.uint8))),
    5: with_meta(5, modality="Doe^Jane"),
}
QUARANTINED = [(key_of(2), WRONG_SHAPE), (key_of(5), DAMAGED_SAMPLE)]


def written(store: ObjectStore, broken: dict[int, tuple[bytes, bytes]]) -> Shard:
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder, "shard.tar")
        with ShardWriter(tar) as writer:
            for row in range(SCANS):
                writer.add(key_of(row), *broken.get(row, members_of(row)), "source", f"row/{row}")
            index = index_bytes(writer.close())
        shard, index_sha = sha256_file(tar), sha256_bytes(index)
        uri, index_uri = f"datasets/d/shards/{shard}.tar", f"datasets/d/indexes/{index_sha}.parquet"
        store.upload(tar, uri)
        store.write(index_uri, index)
        return Shard(uri, tar.stat().st_size, shard, SCANS, index_uri, len(index), index_sha)


def network(zero: bool) -> SharedNetwork:
    """Random, or zeros: its fit is exact, so that digests hold on every machine."""
    spec = FieldSpec.linear(coords=2, channels=2, layers=3, hidden=8, latent=5, omega_first=5, omega_last=10)
    params = init_params(spec, torch.Generator().manual_seed(0))
    params = {name: torch.zeros_like(t) if zero else t for name, t in params.items()}
    return SharedNetwork(spec, params, {"shape": list(SHAPE)}, {}, "d" * 64, "test")


def task_of(
    folder: Path, *, zero: bool = False, broken: dict[int, tuple[bytes, bytes]] | None = None, **settings: Any
) -> FitTask:
    """A task over all scans but the first."""
    store, shared = ObjectStore(str(folder / "storage")), network(zero)
    store_network(store, "r", shared)
    at = f"runs/r/network/{shared.digest}"
    return FitTask(
        worker=WorkerSettings(store.root, str(folder / "cache"), 10**9, 1, 0),
        folder=FOLDER,
        network=NetworkRef(f"{at}/network.safetensors", f"{at}/network.json", shared.digest),
        work=FitWork("train", written(store, broken or {}), 1, SCANS),
        shape=SHAPE,
        settings=FitSettings(2, 0.5, **settings),
        learned_rates=False,
        batch=BATCH,
        min_psnr=20.0,
        fit_digest="f" * 64,
        fence=ALONE,
    )


def commit_of(task: FitTask) -> latent_ledger.Commit:
    commit = latent_ledger.read_commit(ObjectStore(task.worker.root), task.folder, task.work)
    assert commit is not None
    return commit


@pytest.mark.skipif(pa.__version__ != WITH_THESE_VERSIONS, reason="the digests are of another version of pyarrow")
@pytest.mark.parametrize(
    ("storage_type", "part", "record"),
    [
        (
            "float32",
            "f612343b9ded27dbfd95cde0804e68519139c0f808b25f0964b25f2772aa8c70",
            "c3e63aa532c6296af3bb15c227398bc9057a9f4040b26e4df71005d0c90f35b5",
        ),
        (
            "float16",
            "59efe9ec02549c8d8b2aa47be9420087ccbdb9e9319147c119202697235c9380",
            "e3b34d883976bcf8f9ae8530836dc88368862120fbb27828346e67cd87dc3a66",
        ),
        (
            "int8",
            "2181cdfebe44b9f9a0b6d034ec80cd98e9b3ead8f721b133cc88fc93f959c557",
            "f43a73c974d4c6b7f33c2b397344675a7a9ecf13eb0dfedbfaae06614a889e19",
        ),
    ],
)
def test_parts_and_records_are_the_bytes_that_they_have_always_been(tmp_path, storage_type, part, record):
    task = task_of(tmp_path, zero=True, broken=BROKEN, storage_type=storage_type)
    assert fit_task(task).rows == SCANS - 1 - len(BROKEN)
    commit = commit_of(task)
    assert [(q.key, q.reason) for q in commit.quarantined] == QUARANTINED
    assert (commit.part.sha256, sha256_bytes(canonical_json(commit.body()))) == (part, record)
