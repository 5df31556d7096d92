"""Single scans read from shards by their position, and verified.

Nothing is used before it is verified: a shard by its size and SHA-256, an index by its SHA-256, each member of a
sample by its CRC-32C. Without that, a tar that was cut short or has a flipped bit would be read without an error.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import crc32c
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.shard_cache import ShardCache

__all__ = ["Members", "SampleReader", "ShardCache"]

OPEN_SHARDS = 128
"""File handles that a reader keeps open; most systems allow 1024 per process."""
FETCHES = 4
"""Shards that a reader fetches at once in the background: enough to hide latency, too few to slow training down."""


class Members(TypedDict):
    """A sample as webdataset passes it on: ``__key__``, ``__url__`` (the shard) and the members' bytes."""

    __key__: str
    __url__: str
    npy: bytes
    json: bytes


class SampleReader:
    """Single samples of a list of shards, each verified; ``expect`` fetches a shard ahead of time."""

    def __init__(self, store: ObjectStore, shards: Sequence[Shard], cache: ShardCache) -> None:
        self._store, self._shards, self._cache = store, list(shards), cache
        self._indexes: dict[int, _Index] = {}
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._expected: dict[int, Future[None]] = {}
        self._fetching = ThreadPoolExecutor(FETCHES, "fetch")
        self._lock = threading.Lock()

    def expect(self, shard: int) -> None:
        """Start to fetch a shard in the background; a read from it then waits only for the rest.

        An error is raised by the read that needs the shard.
        """
        if shard not in self._open and shard not in self._expected:
            self._expected[shard] = self._fetching.submit(self._fetch, shard)

    def keys(self, shard: int) -> list[str]:
        """The keys of a shard's samples, by row."""
        with self._lock:
            return self._index(shard).keys

    def read(self, sample: SampleId) -> Members:
        """One sample's members. IntegrityError names shard and key when their bytes are not the packed ones."""
        with self._lock:
            if (expected := self._expected.pop(sample.shard, None)) is not None:
                expected.result()
            index, shard = self._index(sample.shard), self._shards[sample.shard]
            file = self._file(sample.shard)
            npy, json = (self._member(file, index, sample, place) for place in index.members[sample.row].tolist())
        return {"__key__": index.keys[sample.row], "__url__": shard.uri, "npy": npy, "json": json}

    def close(self) -> None:
        """Close all shards and cancel what was expected; the next read opens them again."""
        with self._lock:
            while self._expected:
                self._expected.popitem()[1].cancel()
            while self._open:
                self._open.popitem()[1].close()

    def _fetch(self, shard: int) -> None:
        self._cache.path(self._shards[shard])
        self._index(shard)

    def _member(self, file: BinaryIO, index: _Index, sample: SampleId, place: list[int]) -> bytes:
        offset, length, checksum = place
        data = os.pread(file.fileno(), length, offset)
        if len(data) != length or crc32c(data) != checksum:
            where = f"{self._store.uri(self._shards[sample.shard].uri)}, sample {index.keys[sample.row]}"
            do = "remove the shard from the node's cache; if it happens again, restore the shard from a backup"
            raise IntegrityError("a sample's bytes are damaged (CRC-32C)", where=where, do=do)
        return data

    def _index(self, shard: int) -> _Index:
        if shard not in self._indexes:
            self._indexes[shard] = _Index.of(self._cache.index(self._shards[shard]))
        return self._indexes[shard]

    def _file(self, shard: int) -> BinaryIO:
        if shard not in self._open:
            self._open[shard] = self._cache.open(self._shards[shard])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return self._open[shard]


@dataclass(frozen=True)
class _Index:
    """A shard's index in memory. ``members``: (row, npy | json, offset | length | CRC-32C)."""

    keys: list[str]
    members: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> _Index:
        columns = [f"{member}_{what}" for member in ("npy", "json") for what in ("offset", "length", "crc32c")]
        cells = np.stack([table[name].to_numpy().astype(np.int64) for name in columns], axis=1)
        return cls(table["key"].to_pylist(), cells.reshape(-1, 2, 3))
