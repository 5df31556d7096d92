"""A node's shards on disk: downloaded once, verified before use, shared by its processes, evicted by last use."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from filelock import FileLock, Timeout

from medfuncta_dist.errors import (
    DeadlineError,
    DiskFullError,
    IntegrityError,
    LostObjectError,
    ObjectMissingError,
    StorageError,
)
from medfuncta_dist.shards.snapshot import SHARD_AGAIN, Shard, checked_index
from medfuncta_dist.storage.digest import sha256_file
from medfuncta_dist.storage.local_objects import TEMPORARY, replacing
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import read_promised

LOCK_DEADLINE_S = 3600.0
"""Waiting for another process of this node to download a shard."""
ABANDONED_S = 3600.0
"""Seconds after which an unfinished download counts as abandoned by its process."""

INDEX = ".index"

_verified_files: set[tuple[str, int, int, int]] = set()
"""Cached files that this process has verified: path, inode, size, time of change."""


def cache_folder(configured: str | None) -> Path:
    """``cluster.cache``, or a temporary folder of this user: two users of a node must not share one."""
    return Path(configured) if configured else Path(tempfile.gettempdir()) / f"medfuncta-cache-{os.getuid()}"


class ShardCache:
    """Shards on this node's disk, shared by its processes: each is downloaded once, and evicted by last use.

    ``max_bytes`` is exceeded only if the shard in use alone is larger.
    """

    def __init__(self, store: ObjectStore, folder: Path, max_bytes: int) -> None:
        self._store, self._folder, self._max_bytes = store, folder, max_bytes

    def path(self, shard: Shard) -> Path:
        """The verified local file of a shard (IntegrityError, StorageError). Open it at once: it may be evicted."""
        with self._lock(shard.sha256):
            return self._verified(shard)

    def index(self, shard: Shard) -> pa.Table:
        """The verified index of a shard, kept beside it (IntegrityError, StorageError)."""
        file = self._folder / f"{shard.sha256}{INDEX}"
        with suppress(OSError, IntegrityError):
            return checked_index(file.read_bytes(), shard, str(file))
        what = "the index of a shard"
        data = read_promised(self._store, shard.index_uri, what, SHARD_AGAIN, limit=shard.index_size)
        table = checked_index(data, shard, self._store.uri(shard.index_uri))
        # It is small, and can be read again if it cannot be kept here.
        with suppress(OSError), replacing(file, durable=False) as part:
            part.write_bytes(data)
        return table

    def open(self, shard: Shard) -> BinaryIO:
        """The verified shard, open for reading; eviction no longer affects it."""
        with self._lock(shard.sha256):
            return self._verified(shard).open("rb")

    @contextmanager
    def _lock(self, name: str, seconds: float = LOCK_DEADLINE_S) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(self._folder / f"{name}.lock", timeout=seconds):
                yield
        except Timeout as error:
            do = "stop the process of this node that holds its lock, then run the same command again"
            raise DeadlineError("a cached shard stayed locked", where=f"shard {name}", do=do) from error

    def _verified(self, shard: Shard) -> Path:
        file = self._folder / f"{shard.sha256}.tar"
        if file.is_dir():
            raise StorageError(
                "there is a folder in the place of a cached shard", where=str(file), do="remove the folder"
            )
        if not _is_verified(file, shard):
            self._fetch(shard, file)
        status = file.stat()
        # atime records the last use, set here because mounts may not; an unchanged mtime shows unchanged bytes.
        os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
        return file

    def _fetch(self, shard: Shard, file: Path) -> None:
        part = file.with_suffix(".part")
        for _ in range(2):  # a transfer can damage bytes; bytes that are damaged in storage fail twice
            digest = self._download(shard, part)
            if part.stat().st_size == shard.size and digest == shard.sha256:
                part.replace(file)
                _verified_files.add(_signature(file))
                self._evict(file, self._max_bytes)
                return
            part.unlink()
        what = "the shard does not match the snapshot (size or SHA-256)"
        raise IntegrityError(what, where=self._store.uri(shard.uri), do=SHARD_AGAIN)

    def _download(self, shard: Shard, part: Path) -> str:
        """Download a shard, refusing an object that is larger; returns the SHA-256 of the bytes.

        If the disk is full, all other shards are evicted, once.
        """
        try:
            return self._store.download(shard.uri, part, size=shard.size)
        except ObjectMissingError as error:
            what = "the shard is missing: the snapshot names it"
            raise LostObjectError(what, where=self._store.uri(shard.uri), do=SHARD_AGAIN) from error
        except DiskFullError:
            self._evict(part, 0)
        try:
            return self._store.download(shard.uri, part, size=shard.size)
        except DiskFullError as error:
            what = f"the shard cache has no room for a shard of {shard.size} bytes, even with all others evicted"
            do = "free space there, or set cluster.cache to a folder on another disk; then run the same command again"
            raise DiskFullError(what, where=str(self._folder), do=do) from error

    def _evict(self, keep: Path, max_bytes: int) -> None:
        with self._lock("eviction"):
            _remove_abandoned(self._folder)
            files = [(file, file.stat()) for file in self._folder.glob("*.tar") if file.is_file()]
            excess = sum(status.st_size for _, status in files) - max_bytes
            for file, status in sorted(files, key=lambda f: f[1].st_atime_ns):
                if excess > 0 and file != keep and self._remove(file):
                    excess -= status.st_size

    def _remove(self, file: Path) -> bool:
        """Remove a shard, unless another process is opening it."""
        try:
            with self._lock(file.stem, seconds=0):
                file.unlink(missing_ok=True)
                file.with_suffix(INDEX).unlink(missing_ok=True)
        except DeadlineError:
            return False
        return True


def _remove_abandoned(folder: Path) -> None:
    """Remove downloads of processes that were killed, and indexes whose shards are gone."""
    alone = (file for file in folder.glob(f"*{INDEX}") if not file.with_suffix(".tar").exists())
    for file in (*folder.glob("*.part"), *folder.glob(f"{TEMPORARY}*"), *alone):
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > ABANDONED_S:
                file.unlink()


def _is_verified(file: Path, shard: Shard) -> bool:
    """Whether the cached file is the shard; hashed once per process, and again after the file has changed."""
    with suppress(FileNotFoundError):
        if (signature := _signature(file)) in _verified_files:
            return True
        if file.stat().st_size == shard.size and sha256_file(file) == shard.sha256:
            _verified_files.add(signature)
            return True
    return False


def _signature(file: Path) -> tuple[str, int, int, int]:
    status = file.stat()
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns
