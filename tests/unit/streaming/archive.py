"""A small committed split in storage, for the tests of this package."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.shard_index import index_bytes
from medfuncta_dist.shards.shard_writer import write_shard
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import sha256_bytes, sha256_file
from medfuncta_dist.storage.object_store import ObjectStore

SHAPE = (3, 4)


def key_of(shard: int, row: int) -> str:
    """The key of a scan by its place."""
    return hashlib.sha256(f"{shard}/{row}".encode()).hexdigest()


def scan_of(shard: int, row: int) -> Scan:
    """A two-channel scan whose values tell where it is."""
    array = np.random.default_rng([shard, row]).integers(0, 100, (2, *SHAPE)).astype(np.int16)
    return Scan(array, (1.0, 1.0), None, "OT", Window(0.0, 100.0), labels=(shard, row))


def write_split(store: ObjectStore, shard_samples: Sequence[int]) -> list[Shard]:
    """Shards with these numbers of scans, in storage as pack leaves them."""
    return [
        write_scans(store, [(key_of(number, row), scan_of(number, row)) for row in range(samples)])
        for number, samples in enumerate(shard_samples)
    ]


def write_scans(store: ObjectStore, scans: Sequence[tuple[str, Scan]], bricks: bool = False) -> Shard:
    """A shard of these scans, by key; ``bricks``: as in a data set with ``data.patches``."""
    samples = [(key, scan, "source", f"row/{row}") for row, (key, scan) in enumerate(scans)]
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder, "shard.tar")
        index = index_bytes(write_shard(tar, samples, bricks))
        sha256, index_sha256 = sha256_file(tar), sha256_bytes(index)
        uri, index_uri = f"datasets/d/shards/{sha256}.tar", f"datasets/d/indexes/{index_sha256}.parquet"
        store.upload(tar, uri)
        store.write(index_uri, index)
        return Shard(uri, tar.stat().st_size, sha256, len(samples), index_uri, len(index), index_sha256)
