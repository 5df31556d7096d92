"""Writing one shard: a tar that any WebDataset reader opens, and its index in the same pass.

Deterministic: members in the order given, no time, owner or machine in any header, plain USTAR. So the same scans give
the same bytes, the tar's SHA-256 can be its name, and a retry overwrites nothing.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.shards.sample import encode, stored_shape
from medfuncta_dist.shards.shard_index import BRICK_BYTES, TAR_BLOCK, IndexRow, brick_checksums, index_table
from medfuncta_dist.storage.digest import crc32c

LARGEST_MEMBER = 8 * 2**30 - 1
"""Bytes: the largest size that the eleven octal digits of a USTAR header can hold."""


class ShardWriter:
    """A shard being written to a local file, sample by sample; memory holds one index row per sample, no array.

    ``grouped``: its index has patients; ``bricks``: and the shapes and bricks of its scans, too.
    """

    def __init__(self, path: Path, grouped: bool = False, bricks: bool = False) -> None:
        self.path, self._grouped, self._bricks = path, grouped, bricks
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by close()
        self._rows: list[IndexRow] = []
        self._keys: set[str] = set()

    @property
    def samples(self) -> int:
        """Samples so far."""
        return len(self._rows)

    @property
    def size(self) -> int:
        """Bytes so far, without the end of the archive."""
        return self._tar.offset

    def add(self, key: str, npy: bytes, json: bytes, source: str, item: str, group: Group | None = None) -> None:
        """Append one encoded sample. ``IntegrityError`` for a repeated key, or one that WebDataset would cut."""
        if key in self._keys or not key or "." in key or "/" in key:
            raise IntegrityError("a sample's key is repeated, or holds a dot or a slash", where=f"sample {key}")
        self._keys.add(key)
        npy_at, json_at = self._member(f"{key}.npy", npy), self._member(f"{key}.json", json)
        members = npy_at, len(npy), crc32c(npy), json_at, len(json), crc32c(json)
        row = IndexRow(key, source, item, *members, *(group or ()))
        if self._bricks:
            checksums = tuple(brick_checksums(npy, BRICK_BYTES))
            row = replace(row, shape=stored_shape(key, npy), brick_bytes=BRICK_BYTES, brick_crc32c=checksums)
        self._rows.append(row)

    def close(self) -> pa.Table:
        """End the archive; returns its index."""
        self._tar.close()
        return index_table(self._rows, self._grouped, self._bricks)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tar.close()

    def _member(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)  # its defaults: time 0, no owner, mode 0644
        info.size = len(data)
        at = self._tar.offset + TAR_BLOCK
        self._tar.addfile(info, io.BytesIO(data))
        return at


def write_shard(path: Path, samples: Iterable[tuple[str, Scan, str, str]], bricks: bool = False) -> pa.Table:
    """Write canonical scans, given as (key, scan, source key, item), as one shard; returns its index."""
    with ShardWriter(path, bricks=bricks) as shard:
        for key, scan, source, item in samples:
            shard.add(key, *encode(key, scan), source, item)
        return shard.close()
