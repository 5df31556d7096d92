"""The shards that one pack task is writing: one open per split, limited in scans and bytes, uploaded when full."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.shards.shard_index import index_bytes
from medfuncta_dist.shards.shard_looks import look_of_sample, write_looks
from medfuncta_dist.shards.shard_writer import ShardWriter
from medfuncta_dist.shards.snapshot import Shard, dataset_path
from medfuncta_dist.storage.digest import sha256_bytes, sha256_file
from medfuncta_dist.storage.object_store import ObjectStore

MEBIBYTE = 2**20


class ShardSet:
    """Distributes samples to shards by split. ``folder`` holds one unfinished tar per split; memory holds no array.

    ``grouped``: indexes have the groups that ``add`` is given. ``looks``: shards have their scans' looks beside them.
    ``bricks``: indexes have the shapes and bricks of scans that keep their own shape. A scan that is larger than
    ``max_megabytes`` is a shard of its own.
    """

    def __init__(
        self,
        store: ObjectStore,
        dataset: str,
        folder: Path,
        max_scans: int,
        max_megabytes: int,
        grouped: bool = False,
        looks: bool = False,
        bricks: bool = False,
    ) -> None:
        self._grouped, self._bricks = grouped, bricks
        self._looks: dict[str, list[bytes]] | None = {} if looks else None
        self._store, self._dataset, self._folder = store, dataset, folder
        self._max_scans, self._max_bytes = max_scans, max_megabytes * MEBIBYTE
        self._open: dict[str, ShardWriter] = {}
        self._done: dict[str, list[Shard]] = {}

    def add(
        self, split: str, key: str, npy: bytes, json: bytes, source: str, item: str, group: Group | None = None
    ) -> None:
        """Append one encoded sample to its split's shard, starting a new one if it does not fit."""
        shard = self._open.get(split)
        if shard is not None and self._full(shard, len(npy) + len(json)):
            self._finish(split)
        if split not in self._open:
            self._open[split] = ShardWriter(self._folder / f"{split}.tar", self._grouped, self._bricks)
        self._open[split].add(key, npy, json, source, item, group)
        if self._looks is not None:
            self._looks.setdefault(split, []).append(look_of_sample(key, npy, json, in_pieces=self._bricks))

    def finish(self) -> dict[str, tuple[Shard, ...]]:
        """Upload what is still open; returns all shards by split, in the order they were written."""
        for split in sorted(self._open):
            self._finish(split)
        return {split: tuple(shards) for split, shards in sorted(self._done.items())}

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for shard in self._open.values():
            shard.close()

    def _full(self, shard: ShardWriter, more: int) -> bool:
        return shard.samples >= self._max_scans or shard.size + more > self._max_bytes

    def _finish(self, split: str) -> None:
        writer = self._open.pop(split)
        index = index_bytes(writer.close())
        shard = self._describe(writer, index)
        _upload_once(self._store, writer.path, shard.uri)
        _write_once(self._store, index, shard.index_uri)
        if self._looks is not None:
            write_looks(self._store, self._dataset, shard.sha256, self._looks.pop(split))
        writer.path.unlink()
        self._done.setdefault(split, []).append(shard)

    def _describe(self, writer: ShardWriter, index: bytes) -> Shard:
        sha256, index_sha256 = sha256_file(writer.path), sha256_bytes(index)
        return Shard(
            uri=dataset_path(self._dataset, "shards", f"{sha256}.tar"),
            size=writer.path.stat().st_size,
            sha256=sha256,
            samples=writer.samples,
            index_uri=dataset_path(self._dataset, "indexes", f"{index_sha256}.parquet"),
            index_size=len(index),
            index_sha256=index_sha256,
        )


def of_indexes(data: Data) -> tuple[bool, bool, bool]:
    """``grouped``, ``looks`` and ``bricks`` of a data set's shards."""
    return data.grouping != "source", data.look_alikes == "report", data.patches is not None


def _upload_once(store: ObjectStore, local: Path, path: str) -> None:
    """Upload to a content address; an object of the same size that is already there is the same object."""
    size = local.stat().st_size
    if _size(store, path) != size:
        store.upload(local, path)
        _require_size(store, path, size)


def _write_once(store: ObjectStore, data: bytes, path: str) -> None:
    if _size(store, path) != len(data):
        store.write(path, data)
        _require_size(store, path, len(data))


def _size(store: ObjectStore, path: str) -> int | None:
    try:
        return store.size(path)
    except ObjectMissingError:
        return None


def _require_size(store: ObjectStore, path: str, size: int) -> None:
    if (found := _size(store, path)) != size:
        do = "run the pack stage again; if it happens again, check the storage: it does not keep whole objects"
        raise IntegrityError(f"{size} bytes were uploaded, {found or 0} arrived", where=store.uri(path), do=do)
