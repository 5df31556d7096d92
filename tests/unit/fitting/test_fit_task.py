"""One task, from a shard's bytes to its part and its commit record."""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from medfuncta_dist.errors import FormatVersionError, StorageError
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.network_record import network_folder
from medfuncta_dist.fields.params import OUTPUT_OFFSET
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.fitting import fit_task as worker_side
from medfuncta_dist.fitting import latent_ledger, scan_parts
from medfuncta_dist.fitting.batch_transfer import Arriving, Sender
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_rows import ColumnsComing
from medfuncta_dist.fitting.fit_task import DAMAGED_SAMPLE, WRONG_SHAPE, FitTask, fit_task, fitter_here
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.network.committed_network import NetworkRef, store_network
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.sample import encode
from medfuncta_dist.shards.shard_index import index_bytes
from medfuncta_dist.shards.shard_writer import ShardWriter
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import canonical_json, sha256_bytes, sha256_file
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
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


def network(constant: bool) -> SharedNetwork:
    """Random, or 1 everywhere whatever the latent: its fit is exact, so that digests hold on every machine."""
    spec = SirenSpec.linear(coords=2, channels=2, layers=3, hidden=8, latent=5, omega_first=5, omega_last=10)
    params = init_params(spec, torch.Generator().manual_seed(0))
    if constant:
        params = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
        params["layer.3.bias"] += 1 - OUTPUT_OFFSET
    return SharedNetwork(spec, params, {"shape": list(SHAPE)}, {}, "d" * 64, "test")


def task_of(
    folder: Path, *, constant: bool = False, broken: dict[int, tuple[bytes, bytes]] | None = None, **settings: Any
) -> FitTask:
    """A task over all scans but the first."""
    store, shared = ObjectStore(str(folder / "storage")), network(constant)
    store_network(store, network_folder("r"), shared)
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
            "53de44bd70eed149e9f07406e27fa41a750c17c77f9cac850825288c3d262d7f",
            "0b932bd05d9d0c3344894c2da2aff3d46f6623699feb9ff4ddcb8096aa8014f1",
        ),
        (
            "float16",
            "5ede7c724285dac1bb121cb8a7039b6df91a59b6fb5416ac285d8c93f8c95eb9",
            "fb0f945ae8c5716abd8321bb3860665edba6b2a2fdf2546e67646e023f56bf11",
        ),
        (
            "int8",
            "6f9a800fcac5fc7b2fca94fe0271d08a5f10098764cbd24c7cbf200209b2e94b",
            "d2cca25a641ef6ca156bcb6682fdcd858d98cff4a2725fd387ef88867d5a81be",
        ),
    ],
)
def test_parts_and_records_are_the_bytes_that_they_have_always_been(tmp_path, storage_type, part, record):
    task = task_of(tmp_path, constant=True, broken=BROKEN, storage_type=storage_type)
    assert fit_task(task).rows == SCANS - 1 - len(BROKEN)
    commit = commit_of(task)
    assert [(q.key, q.reason) for q in commit.quarantined] == QUARANTINED
    assert (commit.part.sha256, sha256_bytes(canonical_json(commit.body()))) == (part, record)


def test_the_part_holds_what_fitting_each_batch_gives(tmp_path):
    task, shared = task_of(tmp_path, broken=BROKEN), network(constant=False)
    fit_task(task)
    table = table_format.read_part(ObjectStore(task.worker.root), task.folder, commit_of(task).part)
    fitter = new_fitter(shared.spec, shared.params, grid(SHAPE), task.settings)
    expected = []
    for start in range(0, SCANS, BATCH):
        rows = [row for row in range(max(start, 1), min(start + BATCH, SCANS)) if row not in BROKEN]
        targets = torch.zeros(BATCH, 6, 2)
        for row in rows:
            scan = scan_of(row)
            targets[row - start] = torch.from_numpy(scan.window.normalise(scan.array).reshape(2, -1).T)
        result = fitter.fit(targets)
        expected += [expected_row(row, result, row - start) for row in rows]
    assert table.to_pylist() == expected


def expected_row(row: int, result: FitResult, i: int) -> dict[str, Any]:
    """A row of the table, from what was packed and what was fitted."""
    scan, psnr = scan_of(row), float(result.psnr[i])
    return {
        "key": key_of(row),
        "split": "train",
        "labels": list(scan.labels),
        "latent": result.latents[i].tolist(),
        "psnr": psnr,
        "below_min": psnr < 20.0,
        "steps": 2,
        "window_low": scan.window.low,
        "window_high": scan.window.high,
        "spacing": list(scan.spacing),
        "affine": None if scan.affine is None else scan.affine.ravel().tolist(),
        "modality": scan.modality,
        "slice": scan.slice_index,
    }


def test_the_limit_of_the_psnr_is_not_rounded(tmp_path):
    """0 dB as float32 is below a limit that float32 would round to 0."""
    assert fit_task(replace(task_of(tmp_path, constant=True), min_psnr=1e-60)).rows == SCANS - 1
    store, task = ObjectStore(str(tmp_path / "storage")), task_of(tmp_path, constant=True)
    table = table_format.read_part(store, FOLDER, commit_of(task).part)
    assert table["below_min"].to_pylist() == [psnr == 0 for psnr in table["psnr"].to_pylist()]
    assert 0 < commit_of(task).below_min < SCANS - 1


def left_behind(task: FitTask) -> list[str]:
    """What a failed task has written, and the threads that it has left."""
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("one-ahead")]
    return [info.path for info in ObjectStore(task.worker.root).list(task.folder)] + threads


def test_a_scan_of_another_version_ends_the_task_although_it_is_read_in_the_background(tmp_path):
    task = task_of(tmp_path, broken={9: with_meta(9, format_version=9)})
    with pytest.raises(FormatVersionError, match="format_version 9") as caught:
        fit_task(task)
    assert caught.value.where == f"sample {key_of(9)}"
    assert left_behind(task) == []


@pytest.mark.parametrize("row", [1, 6, SCANS - 1])
def test_an_error_that_no_scan_caused_is_raised_as_it_is_by_whichever_batch_has_it(tmp_path, monkeypatch, row):
    task, down = task_of(tmp_path), StorageError("storage is down")
    read = SampleReader.read

    def failing(self: SampleReader, sample: SampleId) -> Any:
        if sample.row == row:
            raise down
        return read(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(SampleReader, "read", failing)
        with pytest.raises(StorageError) as caught:
            fit_task(task)
    assert caught.value is down
    assert left_behind(task) == []
    assert fit_task(task).rows == SCANS - 1


def test_a_batch_that_cannot_be_fitted_comes_before_a_later_one_that_cannot_be_read(tmp_path, monkeypatch):
    task = task_of(tmp_path, broken={5: with_meta(5, format_version=9)})

    class Singular:
        units = None

        def fit(self, targets: torch.Tensor) -> FitResult:
            raise ArithmeticError("singular")

    monkeypatch.setattr(worker_side, "fitter_here", lambda *_: Singular())
    with pytest.raises(ArithmeticError, match="singular"):
        fit_task(task)
    assert left_behind(task) == []


class Watched:
    """The task's fitter, noting which batch is fitted when, and how many batches' values are in memory then."""

    def __init__(self, fitter: Fitter, events: list[tuple[str, int]]) -> None:
        self.fitter, self.events, self.units, self.halved = fitter, events, fitter.units, False
        self.values: list[weakref.ref[torch.Tensor]] = []
        self.most_alive = 0

    def fit(self, targets: torch.Tensor) -> FitResult:
        self.values.append(weakref.ref(targets))
        self.most_alive = max(self.most_alive, sum(value() is not None for value in self.values))
        self.events.append(("fit", len(self.values) - 1))
        return self.fitter.fit(targets)


def watched(task: FitTask, monkeypatch: pytest.MonkeyPatch) -> tuple[Watched, list[tuple[str, int]]]:
    events: list[tuple[str, int]] = []
    fitter = Watched(fitter_here(task.worker, task.network, task.shape, task.settings, task.learned_rates), events)
    wait, rows_of = ColumnsComing.wait, scan_parts.rows_of
    monkeypatch.setattr(worker_side, "fitter_here", lambda *_: fitter)
    counts = dict.fromkeys(("wait", "rows"), 0)

    def noted(kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any) -> Any:
            events.append((kind, counts[kind]))
            counts[kind] += 1
            return work(*given)

        return noting

    monkeypatch.setattr(ColumnsComing, "wait", noted("wait", wait))
    monkeypatch.setattr(scan_parts, "rows_of", noted("rows", rows_of))
    return fitter, events


def test_results_are_awaited_once_per_batch_when_the_next_one_has_been_launched(tmp_path, monkeypatch):
    task = task_of(tmp_path)
    fitter, events = watched(task, monkeypatch)
    assert fit_task(task).rows == SCANS - 1
    assert events == [
        ("fit", 0),
        ("fit", 1),
        ("wait", 0),
        ("rows", 0),
        ("fit", 2),
        ("wait", 1),
        ("rows", 1),
        ("wait", 2),
        ("rows", 2),
    ]
    assert fitter.most_alive == 1, "beside the one that is being read"


def test_the_next_batch_is_read_while_one_is_fitted(tmp_path, monkeypatch):
    """Both wait for each other: one after the other, they would never end."""
    task, meet = task_of(tmp_path), threading.Barrier(2, timeout=10)
    fitter, _ = watched(task, monkeypatch)
    fit, send = fitter.fit, Sender.send
    sent = []

    def fitting(targets: torch.Tensor) -> FitResult:
        if len(fitter.values) < 2:  # the third and last batch has none after it
            meet.wait()
        return fit(targets)

    def sending(self: Sender, values: np.ndarray) -> Arriving:
        sent.append(threading.current_thread().name)
        if len(sent) > 1:
            meet.wait()
        return send(self, values)

    monkeypatch.setattr(fitter, "fit", fitting)
    monkeypatch.setattr(Sender, "send", sending)
    assert fit_task(task).rows == SCANS - 1
    assert len(sent) == 3
    assert all(name.startswith("one-ahead") for name in sent), "sent to the device by the thread that reads"


def test_a_part_that_a_gpu_made_tells_its_precision(tmp_path):
    arithmetic = Arithmetic("torch", precision="tf32x3")
    on_cpu = task_of(tmp_path, arithmetic=arithmetic)
    on_gpu = replace(on_cpu, worker=replace(on_cpu.worker, gpus=0.5))
    assert worker_side._precision(on_gpu) == {"precision": "tf32x3"}
    assert worker_side._precision(on_cpu) == {}, "a CPU computes in float32, and its parts keep their bytes"
    identity = {"network": "n", "fit": "f", **worker_side._precision(on_gpu)}
    assert table_format.schema(5, "float32", identity).metadata[b"precision"] == b"tf32x3"


def test_a_task_whose_memory_ran_out_goes_on_and_says_so(tmp_path, monkeypatch):
    plain, short = (task_of(tmp_path / name, chunks=Chunks(6, 2)) for name in ("plain", "short"))
    assert fit_task(plain).halved is False
    worker_side.fitter_here.cache_clear()
    fitter = worker_side._fitter(short)
    work = fitter.work

    def with_little_memory(targets: torch.Tensor) -> list[torch.Tensor]:
        if len(targets) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(targets)

    monkeypatch.setattr(fitter, "work", with_little_memory)
    done = fit_task(short)
    worker_side.fitter_here.cache_clear()
    assert (done.rows, done.halved) == (SCANS - 1, True)
    assert commit_of(short).psnr_sum == pytest.approx(commit_of(plain).psnr_sum, rel=1e-4)
