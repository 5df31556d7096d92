"""What the scans of a shard look like: an object beside the shard, from which near-duplicates are found.

    datasets/<name>/looks/<SHA-256 of the tar>.parquet    column ``look``: 64 bytes (int8), a row per sample, in order

It is made from the shard alone, so no snapshot names it, and a shard of an earlier version has none. It says no more
of a scan than the shard does, and goes where the shard goes: whoever deletes a shard deletes it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.scans.look import NUMBERS, look_of, look_of_pieces
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.snapshot import Shard, dataset_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet

FORMAT_VERSION = b"1"
LARGEST_FILE = 2**28
"""Bytes: a shard of four million scans."""
PIECE_VALUES = 2**22
"""Of a scan, in memory at once."""
SCHEMA = pa.schema(
    [("look", pa.binary(NUMBERS))], metadata={b"format_version": FORMAT_VERSION, b"kind": b"medfuncta looks"}
)


def looks_path(dataset: str, sha256: str) -> str:
    """Path of the looks of the shard with this SHA-256, relative to the storage root."""
    return dataset_path(dataset, "looks", f"{sha256}.parquet")


def look_of_sample(key: str, npy: bytes, json: bytes, in_pieces: bool = False) -> bytes:
    """The look of an encoded sample, 64 bytes; ``in_pieces``: without all of a large scan in memory as float32."""
    sample = decode(key, npy, json)
    if in_pieces:
        return look_of_pieces(_pieces(sample), sample.array.shape).tobytes()
    return look_of(sample.values()).tobytes()


def _pieces(sample: Sample) -> Iterator[np.ndarray]:
    array = sample.array
    few = max(1, PIECE_VALUES * array.shape[1] // array.size)
    for start in range(0, array.shape[1], few):
        yield sample.window.normalise(array[:, start : start + few])


def write_looks(store: ObjectStore, dataset: str, sha256: str, looks: Sequence[bytes]) -> None:
    """Write the looks of a shard, in the order of its samples."""
    sink = pa.BufferOutputStream()
    table = pa.table([pa.array(looks, pa.binary(NUMBERS))], schema=SCHEMA)
    pq.write_table(table, sink, compression="zstd", version="2.6")
    store.write(looks_path(dataset, sha256), bytes(sink.getvalue().to_pybytes()))


def read_looks(store: ObjectStore, dataset: str, shard: Shard) -> np.ndarray | None:
    """(sample, 64) int8; None where a shard has none that can be read: they serve a report, nothing depends on it."""
    path = looks_path(dataset, shard.sha256)
    try:
        file = parquet.open_parquet(
            store.read(path, limit=LARGEST_FILE), store.uri(path), row_bytes=2 * NUMBERS, rows=shard.samples
        )
        if not file.schema_arrow.equals(SCHEMA, check_metadata=True):
            return None
        column = parquet.read(file, store.uri(path))["look"]
    except (ObjectMissingError, IntegrityError):
        return None
    return None if column.null_count else np.frombuffer(b"".join(column.to_pylist()), np.int8).reshape(-1, NUMBERS)
