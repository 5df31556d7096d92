"""A node's shards on disk: downloaded once, proved before use, shared by its processes, least recently used out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from medfuncta_dist.errors import DeadlineError, IntegrityError
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import sha256_file
from medfuncta_dist.storage.local_objects import TEMPORARY
from medfuncta_dist.storage.object_store import ObjectStore

LOCK_DEADLINE_S = 3600.0
"""Waiting for another process of this node to download a shard."""
ABANDONED_S = 3600.0
"""Age at which an unfinished download has no process any more."""

_proved: set[tuple[str, int, int, int]] = set()
"""Cached files that this process has hashed: path, inode, size, time of change."""


def cache_folder(configured: str | None) -> Path:
    """``cluster.cache``, or this user's folder among the temporary ones: two users of a node must not share one."""
    return Path(configured) if configured else Path(tempfile.gettempdir()) / f"medfuncta-cache-{os.getuid()}"


class ShardCache:
    """Shards on this node's disk, shared by its processes: each is downloaded once, the least recently used go first.

    ``max_bytes`` may be exceeded by the shard in use alone.
    """

    def __init__(self, store: ObjectStore, folder: Path, max_bytes: int) -> None:
        self._store, self._folder, self._max_bytes = store, folder, max_bytes

    def path(self, shard: Shard) -> Path:
        """The verified local file of a shard (IntegrityError, StorageError). Open it soon: it may be evicted."""
        with self._lock(shard.sha256):
            return self._verified(shard)

    def open(self, shard: Shard) -> BinaryIO:
        """The verified shard, open for reading; eviction can not take it away any more."""
        with self._lock(shard.sha256):
            return self._verified(shard).open("rb")

    @contextmanager
    def _lock(self, name: str, seconds: float = LOCK_DEADLINE_S) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(self._folder / f"{name}.lock", timeout=seconds):
                yield
        except Timeout as error:
            do = "end the process of this node that holds it"
            raise DeadlineError("a cached shard stayed locked", where=f"shard {name}", do=do) from error

    def _verified(self, shard: Shard) -> Path:
        file = self._folder / f"{shard.sha256}.tar"
        if not _proves(file, shard):
            self._fetch(shard, file)
        status = file.stat()
        # The time of use goes into atime, set by hand since mounts ignore it; mtime tells that the bytes are the same.
        os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
        return file

    def _fetch(self, shard: Shard, file: Path) -> None:
        part = file.with_suffix(".part")
        for _ in range(2):  # a transfer can damage bytes; what is damaged in storage is so the second time, too
            self._store.download(shard.uri, part, size=shard.size)
            if part.stat().st_size == shard.size and sha256_file(part) == shard.sha256:
                part.replace(file)
                _proved.add(_signature(file))
                self._evict(keep=file)
                return
            part.unlink()
        where, do = self._store.uri(shard.uri), "restore the shard from a backup"
        raise IntegrityError("the shard is not what the snapshot says (size or SHA-256)", where=where, do=do)

    def _evict(self, keep: Path) -> None:
        with self._lock("eviction"):
            _remove_abandoned(self._folder)
            files = [(file, file.stat()) for file in self._folder.glob("*.tar")]
            excess = sum(status.st_size for _, status in files) - self._max_bytes
            for file, status in sorted(files, key=lambda f: f[1].st_atime_ns):
                if excess > 0 and file != keep and self._remove(file):
                    excess -= status.st_size

    def _remove(self, file: Path) -> bool:
        """Remove a shard, unless another process is just opening it."""
        try:
            with self._lock(file.stem, seconds=0):
                file.unlink(missing_ok=True)
        except DeadlineError:
            return False
        return True


def _remove_abandoned(folder: Path) -> None:
    """Downloads of processes that were killed."""
    for file in (*folder.glob("*.part"), *folder.glob(f"{TEMPORARY}*")):
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > ABANDONED_S:
                file.unlink()


def _proves(file: Path, shard: Shard) -> bool:
    """Whether the cached file is the shard; hashed once a process, and again whenever the file has changed."""
    with suppress(FileNotFoundError):
        if (signature := _signature(file)) in _proved:
            return True
        if file.stat().st_size == shard.size and sha256_file(file) == shard.sha256:
            _proved.add(signature)
            return True
    return False


def _signature(file: Path) -> tuple[str, int, int, int]:
    status = file.stat()
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns
