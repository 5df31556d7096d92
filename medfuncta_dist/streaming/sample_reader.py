"""Single scans read from shards by their position, and verified.

Nothing is used before it is verified: a shard by its size and SHA-256, an index by its SHA-256, each member of a
sample by its CRC-32C, or, where only a region of a large scan is read, the bricks that it touches by theirs. Without
that, a tar that was cut short or has a flipped bit would be read without an error.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.shards.sample import begins_array, decode, parse_meta
from medfuncta_dist.shards.snapshot import SHARD_AGAIN, Shard
from medfuncta_dist.storage.digest import crc32c
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.scan_region import BrickedArray, within
from medfuncta_dist.streaming.shard_cache import ShardCache

__all__ = ["Members", "SampleReader", "ShardCache"]

OPEN_SHARDS = 128
"""File handles that a reader keeps open; most systems allow 1024 per process."""
FETCHES = 4
"""Shards that a reader fetches at once in the background: enough to hide latency, too few to slow training down."""
NPY, JSON = 0, 1
"""Members of a sample, in their order."""


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
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
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

    def shapes(self, shard: int) -> list[tuple[int, ...]]:
        """The spatial shapes of a shard's scans, by row. IntegrityError where scans were not packed in their own."""
        with self._lock:
            bricks = self._index(shard).bricks
        if bricks is None:
            what = "the index of the shard has no shapes: its scans were packed without data.patches"
            raise IntegrityError(what, where=self._store.uri(self._shards[shard].index_uri), do=SHARD_AGAIN)
        return [row.shape[1:] for row in bricks]

    def read(self, sample: SampleId) -> Members:
        """One sample's members. IntegrityError names shard and key when their bytes are not the packed ones."""
        with self._lock:
            index, shard = self._opened(sample.shard)
            npy, json = (self._member(shard.file, index, sample, member) for member in (NPY, JSON))
        return {"__key__": index.keys[sample.row], "__url__": self._shards[sample.shard].uri, "npy": npy, "json": json}

    def meta(self, sample: SampleId) -> dict[str, Any]:
        """One sample's metadata, without its array; IntegrityError as from ``read``."""
        with self._lock:
            return self._meta(*self._opened(sample.shard), sample)

    def region(self, sample: SampleId, region: Sequence[slice]) -> np.ndarray:
        """A copy of a region of one scan, one slice with step 1 per spatial axis: (channel, *spatial), stored type.

        IntegrityError names shard and key when the array's header, or the bytes that it touches, to the next MiB, are
        not the packed ones; damage elsewhere in the scan is not noticed. Of a scan without bricks, all is read and
        verified.
        """
        with self._lock:
            index, shard = self._opened(sample.shard)
            if index.bricks is None:
                members = (self._member(shard.file, index, sample, member) for member in (NPY, JSON))
                array = decode(index.keys[sample.row], *members).array
                return np.array(array[tuple(within((slice(None), *region), array.shape))])
            found = self._bricked(index, shard, sample).copied(shard.file, (slice(None), *region))
        if found is None:
            raise self._damaged(index, sample)
        return found

    def close(self) -> None:
        """Close all shards and cancel what was expected; the next read opens them again."""
        with self._lock:
            while self._expected:
                self._expected.popitem()[1].cancel()
            while self._open:
                self._open.popitem()[1].file.close()

    def _fetch(self, shard: int) -> None:
        self._cache.path(self._shards[shard])
        self._index(shard)

    def _opened(self, shard: int) -> tuple[_Index, _OpenShard]:
        if (expected := self._expected.pop(shard, None)) is not None:
            expected.result()
        return self._index(shard), self._file(shard)

    def _meta(self, index: _Index, shard: _OpenShard, sample: SampleId) -> dict[str, Any]:
        return parse_meta(index.keys[sample.row], self._member(shard.file, index, sample, JSON))

    def _bricked(self, index: _Index, shard: _OpenShard, sample: SampleId) -> BrickedArray:
        if sample.row not in shard.arrays:
            array = index.array(sample.row, self._meta(index, shard, sample))
            header = None if array is None else array.header(shard.file)
            if array is None or header is None:
                raise self._damaged(index, sample)
            if not begins_array(index.keys[sample.row], header, array.dtype, array.shape):
                raise self._damaged(index, sample, "the npy and json members do not belong together")
            shard.arrays[sample.row] = array
        return shard.arrays[sample.row]

    def _member(self, file: BinaryIO, index: _Index, sample: SampleId, member: int) -> bytes:
        offset, length, checksum = index.members[sample.row, member].tolist()
        data = os.pread(file.fileno(), length, offset)
        if len(data) != length or crc32c(data) != checksum:
            raise self._damaged(index, sample)
        return data

    def _damaged(
        self, index: _Index, sample: SampleId, what: str = "a sample's bytes are damaged (CRC-32C)"
    ) -> IntegrityError:
        where = f"{self._store.uri(self._shards[sample.shard].uri)}, sample {index.keys[sample.row]}"
        do = "remove the shard from the node's cache; if it happens again, restore the shard from a backup"
        return IntegrityError(what, where=where, do=do)

    def _index(self, shard: int) -> _Index:
        if shard not in self._indexes:
            self._indexes[shard] = _Index.of(self._cache.index(self._shards[shard]))
        return self._indexes[shard]

    def _file(self, shard: int) -> _OpenShard:
        if shard not in self._open:
            self._open[shard] = _OpenShard(self._cache.open(self._shards[shard]))
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].file.close()
        self._open.move_to_end(shard)
        return self._open[shard]


@dataclass(frozen=True)
class _OpenShard:
    """A shard's file, and what of its scans was verified since it was opened."""

    file: BinaryIO
    arrays: dict[int, BrickedArray] = field(default_factory=dict)
    """By row: those of which regions were read."""


class _RowBricks(NamedTuple):
    """A scan's shape (channel, *spatial) and its bricks, as the index has them."""

    shape: tuple[int, ...]
    brick_bytes: int
    checksums: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class _Index:
    """A shard's index in memory. ``members``: (row, npy | json, offset | length | CRC-32C); ``bricks``: by row, None
    in a version without them."""

    keys: list[str]
    members: npt.NDArray[np.int64]
    bricks: list[_RowBricks] | None

    @classmethod
    def of(cls, table: pa.Table) -> _Index:
        columns = [f"{member}_{what}" for member in ("npy", "json") for what in ("offset", "length", "crc32c")]
        cells = np.stack([table[name].to_numpy().astype(np.int64) for name in columns], axis=1)
        return cls(table["key"].to_pylist(), cells.reshape(-1, 2, 3), _row_bricks(table))

    def array(self, row: int, meta: Mapping[str, Any]) -> BrickedArray | None:
        """A scan's array; None where its metadata do not belong to it."""
        assert self.bricks is not None
        (shape, brick_bytes, checksums), dtype = self.bricks[row], np.dtype(meta["dtype"]).newbyteorder("<")
        offset, length, _ = self.members[row, NPY].tolist()
        if list(shape) != meta["shape"] or math.prod(shape) * dtype.itemsize > length:
            return None
        return BrickedArray(range(offset, offset + length), shape, dtype, brick_bytes, checksums)


def _row_bricks(table: pa.Table) -> list[_RowBricks] | None:
    if "shape" not in table.column_names:
        return None
    shapes, sizes = table["shape"].to_pylist(), table["brick_bytes"].to_pylist()
    checksums = [row.values.to_numpy() for row in table["brick_crc32c"]]
    return [_RowBricks(tuple(shape), *rest) for shape, *rest in zip(shapes, sizes, checksums, strict=True)]
