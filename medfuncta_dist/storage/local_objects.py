"""Objects as files below a local folder (one machine, or a file system that all nodes share)."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medfuncta_dist.storage.digest import sha256_bytes, sha256_file
from medfuncta_dist.storage.retry import require_at_most

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished writes; they are not listed."""


class LocalObjects:
    """``seconds`` is ignored: local requests have no time limit. Paths are relative to the root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str, limit: int | None, seconds: float) -> bytes:
        if limit is not None:
            require_at_most(limit, self.size(path, seconds))
        return (self.root / path).read_bytes()

    def read_tagged(self, path: str, limit: int | None, seconds: float) -> tuple[bytes, str]:
        data = self.read(path, limit, seconds)
        return data, sha256_bytes(data)

    def read_range(self, path: str, start: int, length: int, seconds: float) -> bytes:
        with (self.root / path).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def write(self, path: str, data: bytes, seconds: float) -> None:
        with replacing(self.root / path) as part:
            part.write_bytes(data)

    def write_if(self, path: str, data: bytes, tag: str | None, seconds: float) -> str | None:
        target = self.root / path
        with _locked(target):
            now = sha256_bytes(target.read_bytes()) if target.exists() else None
            if now != tag:
                return None
            self.write(path, data, seconds)
        return sha256_bytes(data)

    def upload(self, local: Path, path: str, seconds: float) -> None:
        with replacing(self.root / path) as part:
            shutil.copyfile(local, part)

    def download(self, path: str, local: Path, limit: int | None, seconds: float) -> str:
        if limit is not None:
            require_at_most(limit, self.size(path, seconds))
        shutil.copyfile(self.root / path, local)
        return sha256_file(local)

    def size(self, path: str, seconds: float) -> int:
        return self.status(path, seconds)[0]

    def status(self, path: str, seconds: float) -> tuple[int, str]:
        status = (self.root / path).stat()
        if not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, which would block
            raise IsADirectoryError
        return status.st_size, str(status.st_mtime_ns)

    def list(self, prefix: str, seconds: float) -> list[tuple[str, int, str, float]]:
        found = self._below(self.root / prefix if prefix else self.root)
        return [(path, size, version, int(version) / 1e9) for path, size, version in found]

    def folders(self, prefix: str, seconds: float) -> tuple[str, ...]:
        folder = self.root / prefix
        if not folder.is_dir():
            return ()
        with os.scandir(folder) as entries:
            return tuple(entry.name for entry in entries if entry.is_dir())

    def walk(self, ask: object) -> Iterator[tuple[str, int, str]]:
        return self._below(self.root)

    def _below(self, folder: Path) -> Iterator[tuple[str, int, str]]:
        for file in _files(folder):
            with suppress(FileNotFoundError):  # removed by another process after it was listed
                status = file.stat()
                yield str(file.relative_to(self.root)), status.st_size, str(status.st_mtime_ns)

    def delete(self, path: str, seconds: float) -> None:
        (self.root / path).unlink(missing_ok=True)

    def delete_unfinished(self, prefix: str, seconds: float) -> int:
        left = [path for path in (self.root / prefix).rglob(f"{TEMPORARY}*") if path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def versioning(self, seconds: float) -> str:
        return "no"


@contextmanager
def replacing(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file that replaces ``target`` when the block succeeds, and is removed when it fails.

    ``durable`` syncs to disk, so that a power cut leaves the old file or the whole new one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield part
        if durable:  # first the bytes, then the name
            _sync(part)
        part.replace(target)
        if durable:
            _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """A lock for one process at a time, which ends with it; TimeoutError, which is retried, while another has it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.parent / f"{TEMPORARY}{target.name}.lock"
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TimeoutError from error
        if os.fstat(handle.fileno()).st_nlink == 0:  # its former holder has removed the file: others lock a new one
            raise TimeoutError
        try:
            yield
        finally:
            lock.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder. Links to folders are followed, each folder being entered once."""
    entered: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        for name in names:
            path = Path(parent, name)
            if not name.startswith(TEMPORARY) and path.is_file():
                yield path
