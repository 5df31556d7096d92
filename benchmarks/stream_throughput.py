"""Streaming: scans per second from S3 and from a node's disk, and how long training waits for data.

Every variant reads the same tars and ends with the same batches: float32 (batch, point, channel) in [0, 1], 24 scans.

    S3      ours with an empty cache folder, over plain webdataset with s3fs' files as its opener (they read ahead).
    disk    ours with a filled cache folder but nothing proved yet, over plain webdataset on the tars as local files.

Plain webdataset is ``WebDataset(urls).decode().map(scale).batched(24)``: in the tars' order, unshuffled, without any
check. Ours shuffles over all shards. "Verified" is the product as it is: SHA-256 of every shard and index, CRC-32C of
every member. It has no switch to leave that out; "unverified" replaces the digests in this script.

The wait is measured at the batch of the paper's 2D network in two ways: beside its real meta-step (B = 1, on the same
cores), and beside a consumer that sleeps 0.1 s a step of 24 scans, about what a GPU would take. Both start cold.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import numpy as np
import torch
import webdataset as wds

from benchmarks.common import Claim, arguments, ratio, report, side_by_side
from benchmarks.paper_field import paper_field
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.shard_index import index_bytes
from medfuncta_dist.shards.shard_writer import write_shard
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import sha256_bytes, sha256_file
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.s3 import s3_objects
from medfuncta_dist.storage.s3.s3_client import s3_client
from medfuncta_dist.streaming import sample_reader as source_module
from medfuncta_dist.streaming import shard_cache as cache_module
from medfuncta_dist.streaming.sample_order import EpochOrder
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.stream import Batch, training_stream

BATCH, WINDOW = 24, 4096


@dataclass(frozen=True)
class Kind:
    """Synthetic scans of noise: what is in them does not matter here, how large they are does."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    shards: int
    scans: int


KINDS = [
    Kind("2D: 64² uint8", (64, 64), "uint8", shards=24, scans=256),
    Kind("3D: 32³ int16", (32, 32, 32), "int16", shards=24, scans=64),
]


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    kinds = [replace(kind, shards=4, scans=30) for kind in KINDS[:1]] if short else KINDS
    speeds, waits = {}, {}
    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder, "s3")) as s3:
        os.environ.update(s3.environment)
        s3.create_bucket("bench")
        wds.gopen_schemes["s3"] = plain_opener
        for number, kind in enumerate(kinds):
            archive = Archive(kind, f"s3://bench/{number}", Path(folder, str(number)))
            speeds[kind.name] = compare(archive, rounds=1 if short else 4)
            if number == 0:
                waits = {
                    "0.1 s a step of 24 scans": wait(archive, BATCH, lambda _: time.sleep(0.1), 4 if short else 120),
                    "the paper's meta-step, B = 1": wait(archive, 1, paper_step(short), 1 if short else 4),
                }
    report(
        "stream_throughput",
        short,
        began,
        {"speed": speeds, "wait": waits},
        claims(speeds, waits),
        table(speeds),
        notes(waits),
    )


class Archive:
    """Shards of one kind, in S3 as pack leaves them, and the same tars as local files."""

    def __init__(self, kind: Kind, root: str, folder: Path) -> None:
        self.kind, self.store, self.folder = kind, ObjectStore(root), folder
        folder.mkdir()
        self.tars = [folder / f"{n}.tar" for n in range(kind.shards)]
        self.shards = [self._write(n, tar) for n, tar in enumerate(self.tars)]
        self.megabytes = sum(shard.size for shard in self.shards) / 1e6
        self.urls = {"disk": [str(tar) for tar in self.tars], "S3": [self.store.uri(s.uri) for s in self.shards]}

    def order(self, epoch: int, batch: int = BATCH) -> EpochOrder:
        samples = [shard.samples for shard in self.shards]
        return EpochOrder(samples, batch=batch, seed=0, epoch=epoch, digest="", window=WINDOW)

    def _write(self, number: int, tar: Path) -> Shard:
        index = index_bytes(write_shard(tar, self._scans(number)))
        sha256, index_sha256 = sha256_file(tar), sha256_bytes(index)
        uri, index_uri = f"shards/{sha256}.tar", f"indexes/{index_sha256}.parquet"
        self.store.upload(tar, uri)
        self.store.write(index_uri, index)
        return Shard(uri, tar.stat().st_size, sha256, self.kind.scans, index_uri, len(index), index_sha256)

    def _scans(self, number: int) -> Iterator[tuple[str, Scan, str, str]]:
        numbers, kind = np.random.default_rng(number), self.kind
        spacing = (1.0,) * len(kind.shape)
        for row in range(kind.scans):
            array = numbers.integers(0, 250, (1, *kind.shape)).astype(kind.dtype)
            scan = Scan(array, spacing, np.diag([1.0, 2.0, 3.0, 1.0]), "OT", Window(0.0, 249.0), labels=(row % 2,))
            yield hashlib.sha256(f"{number}/{row}".encode()).hexdigest(), scan, "source", str(row)


def compare(archive: Archive, rounds: int) -> dict[str, Any]:
    """Scans a second of every variant, in turns; each reads the whole archive once."""
    filled = archive.folder / "filled"
    ours(archive, filled, proved=False)
    variants: dict[str, Callable[[], float]] = {
        "S3, ours verified": partial(ours, archive),
        "S3, plain webdataset": partial(plain, archive, "S3"),
        "S3, ours unverified": partial(unverified, archive),
        "disk, ours verified": partial(ours, archive, filled),
        "disk, plain webdataset": partial(plain, archive, "disk"),
        "disk, ours unverified": partial(unverified, archive, filled),
    }
    speeds = side_by_side(variants, rounds)
    scan_mb = archive.megabytes / (archive.kind.shards * archive.kind.scans)
    return {
        "archive_mb": archive.megabytes,
        "scans_per_s": {name: statistics.median(numbers) for name, numbers in speeds.items()},
        "mb_per_s": {name: statistics.median(numbers) * scan_mb for name, numbers in speeds.items()},
        "over_plain": {
            f"{where}, {how}": ratio(speeds[f"{where}, ours {how}"], speeds[f"{where}, plain webdataset"])
            for where in ("S3", "disk")
            for how in ("verified", "unverified")
        },
        "rounds": speeds,
    }


def ours(archive: Archive, folder: Path | None = None, proved: bool = False) -> float:
    """Scans a second of our stream over one epoch; from an empty cache where no folder is given."""
    cache_module._verified_files.clear()  # a new process has proved nothing yet
    target = archive.folder / "cold" if folder is None else folder
    steps = archive.order(0).batches
    speed = scans_a_second(batch.values for batch in stream(archive, target, BATCH, steps))
    if folder is None:
        shutil.rmtree(target)
    return speed


def unverified(archive: Archive, folder: Path | None = None) -> float:
    with without_digests():
        return ours(archive, folder)


def plain(archive: Archive, where: str) -> float:
    """Scans a second of webdataset as its documentation uses it."""
    pipeline = wds.WebDataset(archive.urls[where], shardshuffle=False).decode().map(scaled).batched(BATCH)
    return scans_a_second(values for _, values in pipeline)


def scaled(sample: dict[str, Any]) -> tuple[str, np.ndarray]:
    low, high = sample["json"]["window"]
    values = np.clip((sample["npy"].astype(np.float32) - low) / (high - low), 0, 1)
    return sample["__key__"], np.ascontiguousarray(values.reshape(len(values), -1).T)


def plain_opener(url: str, mode: str = "rb", bufsize: int = 8192) -> BinaryIO:
    file: BinaryIO = s3_client().files.open(url, mode)
    return file


def scans_a_second(batches: Iterable[np.ndarray]) -> float:
    began = time.perf_counter()
    return sum(len(values) for values in batches) / (time.perf_counter() - began)


def stream(archive: Archive, folder: Path, batch: int, steps: int) -> Iterator[Batch]:
    reader = SampleReader(archive.store, archive.shards, ShardCache(archive.store, folder, 10**10))
    return training_stream(reader, partial(archive.order, batch=batch), 0, steps, slice(0, batch))


class NoDigest:
    """What a download is hashed with when it is not hashed."""

    def update(self, _: bytes) -> None: ...

    def hexdigest(self) -> str:
        return ""


@contextmanager
def without_digests() -> Iterator[None]:
    """No digest is checked: cached files are found by their SHA-256 names, and members are read unverified."""

    def member(reader: Any, file: BinaryIO, index: Any, sample: Any, which: int) -> bytes:
        offset, length, _ = index.members[sample.row, which].tolist()
        return os.pread(file.fileno(), length, offset)

    download = ShardCache._download

    def believed(cache: ShardCache, shard: Shard, part: Path) -> str:
        download(cache, shard, part)
        return shard.sha256

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(s3_objects, "sha256", NoDigest))
        stack.enter_context(mock.patch.object(ShardCache, "_download", believed))
        stack.enter_context(mock.patch.object(cache_module, "sha256_file", lambda path: path.stem))
        stack.enter_context(mock.patch.object(source_module.SampleReader, "_member", member))
        yield


def wait(archive: Archive, batch: int, consume: Callable[[np.ndarray], object], steps: int) -> dict[str, float]:
    """The share of the time that a consumer waits for its next batch, from a cold start; the first wait apart, too."""
    folder, waited, began = archive.folder / "waited", [], time.perf_counter()
    batches, asked = iter(stream(archive, folder, batch, steps)), began
    for _ in range(steps):
        asked = time.perf_counter()
        values = next(batches).values
        waited.append(time.perf_counter() - asked)
        consume(values)
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    later = sum(waited[1:]) / (seconds - waited[0])
    return {
        "steps": steps,
        "s_per_step": (seconds - sum(waited)) / steps,
        "first_wait_s": waited[0],
        "share_after_the_first": later,
        "share": sum(waited) / seconds,
        "longest_later_wait_s": max(waited[1:], default=0.0),
    }


def paper_step(short: bool) -> Callable[[np.ndarray], None]:
    """A meta-step of the paper's 2D network (15 x 256, P = 2048, γ = .25, G = 10); of a small one where short."""
    layers, hidden, latent, inner = (4, 16, 16, 2) if short else (15, 256, 2048, 10)
    spec = paper_field(layers, hidden, latent)
    torch.set_num_threads(1)  # threads that wait for each other are slowest beside a busy neighbour
    learner = MetaLearner(spec, init_params(spec, torch.Generator().manual_seed(0)), grid((64, 64)), 1e-2)

    def step(values: np.ndarray) -> None:
        contexts = context_sets(4096, 0.25, inner, seed=0, outer_step=0)
        latents = torch.zeros(len(values), latent, requires_grad=True)
        learner(torch.from_numpy(values), latents, contexts).mean().backward()

    return step


def claims(speeds: dict[str, Any], waits: dict[str, Any]) -> list[Claim]:
    found = []
    for kind, speed in speeds.items():
        for where in ("S3", "disk"):
            over = speed["over_plain"]
            found += [
                Claim(f"{kind}, {where}: unverified over plain webdataset", over[f"{where}, unverified"], 1.5, True),
                Claim(f"{kind}, {where}: verified over plain webdataset", over[f"{where}, verified"], 1.0, True),
            ]
    return found + [
        Claim(f"waiting after the first batch, {name}", found["share_after_the_first"], 0.01, False)
        for name, found in waits.items()
    ]


def notes(waits: dict[str, Any]) -> list[str]:
    """The first batch of a process comes from an empty cache: given in seconds, since a run has it once."""
    text = "the first batch, from an empty cache, came after {:.2f} s; with it the share over {} steps is {:.2%}"
    return [f"{name}: " + text.format(w["first_wait_s"], w["steps"], w["share"]) for name, w in waits.items()]


def table(speeds: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"scans": kind, "variant": name, "scans/s": round(number), "MB/s": round(speed["mb_per_s"][name], 1)}
        for kind, speed in speeds.items()
        for name, number in speed["scans_per_s"].items()
    ]


if __name__ == "__main__":
    main()
