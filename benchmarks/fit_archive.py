"""What `exact_fit.py` runs the fit stage on: packed scans and a network; and the CPU time of each step of a task."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.fit_throughput import images
from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.fitting import fit_task as worker_side
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.exact_fit import ExactFitter
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.task_map import FanOut, map_here


@dataclass(frozen=True)
class ArchiveSize:
    """``scans`` of ``side`` x ``side`` values are packed, ``shard_scans`` per shard and fit task."""

    side: int
    scans: int
    shard_scans: int


class Archive:
    """A run that only lacks its latents: packed scans of smooth noise in 8 bits, and a committed network."""

    def __init__(self, folder: Path, field: Trained, size: ArchiveSize) -> None:
        self.folder, self.scans = folder, size.scans
        self.run = run_of(folder, field.spec, size)
        write_source(folder, size)
        pack(self.run, map_here, lambda _: None)
        store = ObjectStore(self.run.storage)
        snapshot = load_snapshot(store, self.run.dataset, None)
        commit_network(store, self.run, snapshot, field, None, None, fence=ALONE)

    def seconds(self, fan_out: FanOut) -> float:
        """Of the whole fit stage, from no latent and an empty cache to the last commit record, and the balance."""
        shutil.rmtree(self.latents, ignore_errors=True)
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        began = time.perf_counter()
        summary = fit(self.run, fan_out)
        seconds = time.perf_counter() - began
        if summary.fitted_now != self.scans:
            raise SystemExit(f"{summary.fitted_now} of {self.scans} scans were fitted")
        return seconds

    def speed(self, fan_out: FanOut) -> float:
        """Scans/s of a pass."""
        return self.scans / self.seconds(fan_out)

    def cpu_by_step(self) -> dict[str, float]:
        """CPU µs per scan of each step of the tasks, all threads, in a pass of its own in this process."""
        with cpu_seconds_by_step() as found:
            began = time.process_time()
            self.seconds(map_here)
            whole = time.process_time() - began
        found["all else"] = whole - sum(found.values())
        return {name: seconds / self.scans * 1e6 for name, seconds in found.items()}

    def bytes_per_scan(self) -> dict[str, float]:
        """Of the shards with their indexes, and of the parts."""
        data = Path(self.run.storage) / "datasets" / self.run.dataset
        shards = [*(data / "shards").iterdir(), *(data / "indexes").iterdir()]
        parts = self.latents.rglob("*.parquet")
        return {
            "shard_bytes_per_scan": sum(file.stat().st_size for file in shards) / self.scans,
            "part_bytes_per_scan": sum(file.stat().st_size for file in parts) / self.scans,
        }

    @property
    def latents(self) -> Path:
        """The folder of the run's tables."""
        return Path(self.run.storage) / "runs" / self.run.name / "latents"


def run_of(folder: Path, spec: FieldSpec, size: ArchiveSize) -> RunFile:
    """The run file: the preset 2d but for sizes. Two tasks at a time, however many cores there are."""
    assert isinstance(spec, BasisSpec)
    cpus = max(1.0, (os.cpu_count() or 1) / 2)
    field = f"{{hidden: {spec.hidden}, features: {spec.features}, latent: {spec.latent}}}"
    cluster = f"{{workers: 2, cpus_per_worker: {cpus}, race_stragglers: false, cache: {folder / 'cache'}}}"
    text = f"""
name: exact-fit
storage: {folder / "storage"}
preset: 2d
data:
  splits: {{train: {folder / "scans.npz"}}}
  shape: [{size.side}, {size.side}]
  shard_scans: {size.shard_scans}
  private: {folder / "private"}
field: {field}
fit: {{scans_per_task: {size.shard_scans}}}
cluster: {cluster}
"""
    return parse(text, [])


def write_source(folder: Path, size: ArchiveSize) -> None:
    """Smooth noise in 8 bits, in MedMNIST's layout."""
    values = images(None, "train", size.scans, size.side).view(size.scans, size.side, size.side)
    pictures = values.mul(255).round().to(torch.uint8).numpy()
    np.savez(folder / "scans.npz", train_images=pictures, train_labels=np.zeros((size.scans, 1), np.uint8))


@contextmanager
def cpu_seconds_by_step() -> Iterator[dict[str, float]]:
    """CPU seconds of the steps of all fit tasks that run in this process meanwhile. No step is inside another."""
    steps: dict[str, tuple[Any, str]] = {
        "copy the shard, SHA-256": (ShardCache, "path"),
        "read, CRC-32C": (SampleReader, "read"),
        "decode": (worker_side, "decode"),
        "scale to float32": (Sample, "fill"),
        "product": (ExactFitter, "fit"),
        "columns": (table_format, "part_table"),
        "Parquet": (table_format, "table_bytes"),
        "write": (ObjectStore, "write"),
    }
    found = dict.fromkeys(steps, 0.0)
    with ExitStack() as stack:
        for name, (owner, attribute) in steps.items():
            clocked = with_clock(getattr(owner, attribute), found, name)
            stack.enter_context(mock.patch.object(owner, attribute, clocked))
        yield found


def with_clock(work: Callable[..., Any], found: dict[str, float], name: str) -> Callable[..., Any]:
    """The same, and its thread's CPU seconds are added up. Each step is always called by one thread at a time."""

    def clocked(*given: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return work(*given, **named)
        finally:
            found[name] += time.thread_time() - began

    return clocked
