"""The product on a Ray cluster of several GPUs, for teams that have one: from one worker to as many as there are GPUs.

all-reduce   of as many numbers as θ has, over NCCL, as the gradients of each outer step are exchanged
training     the train stage itself: outer steps and scans per second, and the share of the time that waits for data;
             with one batch for all workers, and with as many scans for each
fit          the fit stage itself, with a GPU per task: scans per second

Needs everything installed on all nodes, RAY_ADDRESS, and a storage that all nodes reach. ``--dry`` shows on a Ray of
this machine, with gloo and without GPUs, that it works.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, file_part, markdown, rounded, where

# isort: split
import numpy as np
import ray
import torch

from benchmarks.fit_throughput import images
from benchmarks.gpu.result_lines import last_lines_of
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fanout import start_ray
from medfuncta_dist.network.core_settings import field_spec
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import history

Values = dict[str, Any]
MISSING = 2


@dataclass(frozen=True)
class Size:
    """How much is done with each number of workers."""

    side: int
    scans: int
    """Packed, and fitted by each number of workers."""
    shard_scans: int
    batch: int
    steps: int
    log_steps: int
    """Between two measurements; the first is left out, for it has the start in it."""
    rounds: int
    """Of the all-reduce."""
    cpus: float
    run: dict[str, Any]
    """Further sections of the run file."""


FULL = Size(64, 16_384, 1024, 24, 300, 50, 20, 4.0, {"preset": "siren-2d"})
DRY = Size(
    8,
    48,
    16,
    4,
    6,
    2,
    2,
    1.0,
    {
        "field": {"layers": 4, "hidden": 16, "latent": 8, "omega_first": 10.0, "omega_last": 30.0},
        "meta": {"inner_steps": 2, "inner_rate": 0.1, "selection_ratio": 0.5},
        "fit": {"steps": 2, "batch": 8},
    },
)


def main(words: Sequence[str] | None = None) -> int:
    """Check what is there, then measure with each number of workers. The exit code: 2 where something is missing."""
    began, given = time.perf_counter(), _parser().parse_args(words)
    if problem := _connect(given):
        print(f"make gpu-cluster: {problem}", file=sys.stderr)
        return MISSING
    with tempfile.TemporaryDirectory(prefix="gpu-cluster-") as folder:
        bench = ClusterBench(given, Path(folder), began)
        try:
            bench.prepare()
            for workers in bench.counts:
                bench.measure(workers)
        finally:
            ray.shutdown()
    print(json.dumps(bench.record(), indent=2, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_cluster", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--storage", help="a root that all nodes reach: s3://…, or a folder on a shared file system")
    parser.add_argument("--workers", default="", help="numbers of workers, with commas; default: 1, 2, 4 … all GPUs")
    parser.add_argument("--data", help="a MedMNIST .npz file; smooth noise without")
    parser.add_argument("--out", help="the folder of results; benchmarks/results, for --dry a new one")
    parser.add_argument(
        "--dry", action="store_true", help="one and two workers without GPUs on this machine, in seconds"
    )
    return parser


def _connect(given: argparse.Namespace) -> str | None:
    """Connect to the cluster; what is missing, if anything is."""
    if given.dry:
        os.environ.pop("RAY_ADDRESS", None)
        return None
    if not given.storage:
        return "STORAGE is missing: give a root that all nodes reach, such as s3://bucket/folder"
    if not os.environ.get("RAY_ADDRESS"):
        return "RAY_ADDRESS is missing: give the address of a Ray cluster with GPUs, such as auto or ray://head:10001"
    start_ray(_run(FULL, given.storage, "gpu-cluster", "unused", 1, 1, FULL.batch))
    if not _gpus():
        return "this Ray cluster has no GPU: `ray status` lists what it has"
    return None


def _gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def counts_up_to(most: int) -> list[int]:
    """1, 2, 4 … and all of them."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


class ClusterBench:
    """Measures, and writes all there is after each part."""

    def __init__(self, given: argparse.Namespace, folder: Path, began: float) -> None:
        self._size, self._gpus = (DRY, 0) if given.dry else (FULL, 1)
        self._folder, self._began, self._data, self._dry = folder, began, given.data, given.dry
        self._out = Path(given.out or (tempfile.mkdtemp(prefix="gpu-cluster-dry-") if given.dry else RESULTS))
        self._storage = given.storage or str(folder / "storage")
        self._dataset = f"gpu-cluster-{secrets.token_hex(4)}"
        asked = [int(word) for word in given.workers.split(",") if word.strip()]
        self.counts = asked or ([1, 2] if given.dry else counts_up_to(_gpus()))
        self._rows: dict[int, Values] = {}
        self._cards: list[str] = []

    def prepare(self) -> None:
        """Start Ray where none was connected to, and pack the scans, here: shards go to the storage."""
        self._out.mkdir(parents=True, exist_ok=True)
        run = self._new_run(max(self.counts), self._size.batch)
        start_ray(run)
        found = images(self._data, "train", self._size.scans, self._size.side)
        pictures = found.view(len(found), self._size.side, -1).mul(255).round().to(torch.uint8).numpy()
        np.savez(self._folder / "scans.npz", train_images=pictures, train_labels=np.zeros((len(found), 1), np.uint8))
        pack(run, map_here, lambda _: None)

    def measure(self, workers: int) -> None:
        """Every part with so many workers."""
        self._part(workers, "all_reduce", lambda: self._all_reduce(workers))
        self._part(workers, "one_batch", lambda: self._train_and_fit(workers, self._size.batch))
        if workers > 1 and not self._dry:
            self._part(workers, "batch_per_worker", lambda: self._train(workers, self._size.batch * workers)[1])

    def record(self) -> Values:
        """All that was measured, as JSON."""
        notes = [f"{len(self._rows)} numbers of workers; cards: {', '.join(sorted(set(self._cards))) or 'none'}."]
        return rounded(
            {
                "benchmark": "gpu_cluster",
                "seconds": time.perf_counter() - self._began,
                **where(),
                "claims": [],
                "results": {str(workers): row for workers, row in self._rows.items()},
                "notes": notes,
            }
        )  # type: ignore[no-any-return]

    def _part(self, workers: int, name: str, work: Callable[[], Values]) -> None:
        print(f"[{workers} workers] {name} …", file=sys.stderr, flush=True)
        try:
            found = work()
        except (MedfunctaError, ray.exceptions.RayError, RuntimeError) as error:
            found = {"failed": last_lines_of(error)}
        self._rows.setdefault(workers, {})[name] = found
        name = "dry" if self._dry else file_part((self._cards or ["unknown"])[0])
        file = self._out / f"gpu-cluster-{name}"
        record = self.record()
        file.with_suffix(".json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        file.with_suffix(".md").write_text(markdown(record, rounded(table(self._rows))))

    def _new_run(self, workers: int, batch: int) -> RunFile:
        name = f"{self._dataset}-{workers}-{batch}"
        source = str(self._folder / "scans.npz")
        run = _run(self._size, self._storage, name, source, workers, self._gpus, batch)
        data = run.data.model_copy(update={"dataset": self._dataset, "private": str(self._folder / "private")})
        return run.model_copy(update={"data": data})

    def _all_reduce(self, workers: int) -> Values:
        run = self._new_run(workers, self._size.batch)
        numbers = sum(math.prod(shape) for shape in field_spec(run).shapes().values())
        remote = ray.remote(num_gpus=self._gpus, num_cpus=1)(Rank)
        ranks = [remote.remote() for _ in range(workers)]
        try:
            self._cards += [card for card in ray.get([rank.card.remote() for rank in ranks]) if card]
            address = ray.get(ranks[0].address.remote())
            backend = "nccl" if self._gpus else "gloo"
            ray.get([rank.join.remote(n, workers, address, backend) for n, rank in enumerate(ranks)])
            seconds = statistics.median(ray.get([r.all_reduce.remote(numbers, self._size.rounds) for r in ranks])[0])
        finally:
            for rank in ranks:
                ray.kill(rank)
        moved = 2 * (workers - 1) / workers * 4 * numbers
        return {"backend": backend, "numbers": numbers, "ms": seconds * 1e3, "bus_gb_per_s": moved / seconds / 1e9}

    def _train(self, workers: int, batch: int) -> tuple[RunFile, Values]:
        run = self._new_run(workers, batch)
        run_stages(run, ["train"])
        store = ObjectStore(run.storage)
        curves = {name: history(store, run.name, name)[1:] for name in ("s_per_step", "samples_per_s", "data_wait")}
        seconds, speeds, waits = ([value for _, value in curve] for curve in curves.values())
        return run, {
            "batch": batch,
            "steps_per_s": 1 / statistics.median(seconds),
            "scans_per_s": statistics.median(speeds),
            "data_wait": statistics.mean(waits),
        }

    def _train_and_fit(self, workers: int, batch: int) -> Values:
        run, trained = self._train(workers, batch)
        figures = run_stages(run, ["fit"])["fit"]
        fitted, seconds = figures["fitted_now"], figures["seconds"]
        return trained | {"fitted": fitted, "fit_seconds": seconds, "fit_scans_per_s": fitted / seconds}


class Rank:
    """One process of the all-reduce, on the GPU that Ray has assigned to it."""

    def card(self) -> str | None:
        """Its GPU's name."""
        return torch.cuda.get_device_name(0).removeprefix("NVIDIA ") if ray.get_gpu_ids() else None

    def address(self) -> tuple[str, int]:
        """Where the others can meet it."""
        import socket

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def join(self, rank: int, size: int, address: tuple[str, int], backend: str) -> None:
        """Join the others."""
        host, port = address
        method = f"tcp://{host}:{port}"
        torch.distributed.init_process_group(backend, init_method=method, rank=rank, world_size=size)

    def all_reduce(self, numbers: int, rounds: int) -> list[float]:
        """Seconds of each round, after two that do not count."""
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        values, seconds = torch.ones(numbers, device=device), []
        for _ in range(rounds + 2):
            torch.distributed.barrier()
            began = time.perf_counter()
            torch.distributed.all_reduce(values)
            float(values[0])  # waits for a GPU
            seconds.append(time.perf_counter() - began)
        return seconds[2:]


def _run(size: Size, storage: str, name: str, source: str, workers: int, gpus: int, batch: int) -> RunFile:
    from medfuncta_dist.config.load import parse

    train = {
        "batch": batch,
        "steps": size.steps,
        "validate_steps": 10 * size.steps,
        "checkpoint_steps": 10 * size.steps,
    }
    cluster = {"workers": workers, "gpus_per_worker": gpus, "cpus_per_worker": size.cpus, "threads": 1}
    data = {
        "splits": {"train": source},
        "reader": "medmnist",
        "shape": [size.side] * 2,
        "shard_scans": size.shard_scans,
    }
    telemetry = {"wandb": "off", "log_steps": size.log_steps}
    whole = {"name": name, "storage": storage, "data": data, "train": train, "cluster": cluster, "telemetry": telemetry}
    return parse(json.dumps(whole | size.run), [])  # JSON is YAML


def table(rows: dict[int, Values]) -> list[Values]:
    """A row per number of workers; speeds over those of the first."""
    first = next(iter(rows.values()), {}).get("one_batch", {})
    return [_row(workers, row, first) for workers, row in rows.items()]


def _row(workers: int, row: Values, first: Values) -> Values:
    reduced, one, weak = (row.get(name, {}) for name in ("all_reduce", "one_batch", "batch_per_worker"))

    def over(values: Values, name: str) -> str:
        number, base = values.get(name), first.get(name)
        return "" if number is None or base is None else f"{number:.4g} ({number / base:.2f} x)"

    failed = [f"{name}: {values['failed']}" for name, values in row.items() if "failed" in values]
    return {
        "workers": workers,
        "all-reduce, ms": reduced.get("ms", ""),
        "bus, GB/s": reduced.get("bus_gb_per_s", ""),
        "training, steps/s": over(one, "steps_per_s"),
        "training, scans/s": over(one, "scans_per_s"),
        "waits for data": one.get("data_wait", ""),
        "a batch per worker, scans/s": over(weak, "scans_per_s"),
        "fit, scans/s": over(one, "fit_scans_per_s"),
        "failed": "; ".join(failed).replace("|", "/"),
    }


if __name__ == "__main__":
    sys.exit(main())
