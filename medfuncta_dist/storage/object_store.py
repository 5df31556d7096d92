"""Bytes below one root URI: ``s3://bucket/prefix`` or a local folder, with the same meaning for both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, RunFileError, StorageError
from medfuncta_dist.storage.local_objects import LocalObjects, replacing
from medfuncta_dist.storage.retry import SLOWEST_BYTES_S, persist

T = TypeVar("T")

S3_ROOT = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[^/]+)*)/*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class ObjectInfo:
    """An object's path below its store's root and its size in bytes."""

    path: str
    size: int


class Objects(Protocol):
    """What a kind of storage must do: single requests, with ``seconds`` to finish in, raising its own errors."""

    def read(self, path: str, limit: int | None, seconds: float) -> bytes: ...
    def read_tagged(self, path: str, limit: int | None, seconds: float) -> tuple[bytes, str]: ...
    def read_range(self, path: str, start: int, length: int, seconds: float) -> bytes: ...
    def write(self, path: str, data: bytes, seconds: float) -> None: ...
    def write_if(self, path: str, data: bytes, tag: str | None, seconds: float) -> str | None: ...
    def upload(self, local: Path, path: str, seconds: float) -> None: ...
    def download(self, path: str, local: Path, limit: int | None, seconds: float) -> str: ...
    def size(self, path: str, seconds: float) -> int: ...
    def list(self, prefix: str, seconds: float) -> list[tuple[str, int]]: ...
    def delete(self, path: str, seconds: float) -> None: ...


class ObjectStore:
    """Objects below ``root``. Opens nothing until used, and pickles as its root and deadline alone.

    Every method may raise StorageError, DeadlineError (retries included, ``deadline_s`` seconds plus the transfer's
    allowance) and, where an object must exist, ObjectMissingError. Missing objects and refused credentials are
    reported at once; everything that can pass by itself is retried with growing, jittered waits.
    """

    def __init__(self, root: str, deadline_s: float = 120.0) -> None:
        self.root, self.deadline_s = normal_root(root), deadline_s

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "deadline_s": self.deadline_s}

    def __repr__(self) -> str:
        return f"ObjectStore({self.root!r})"

    @cached_property
    def _objects(self) -> Objects:
        if self.root.startswith("s3://"):
            from medfuncta_dist.storage.s3.s3_objects import S3Objects  # a local run needs no S3 client

            return S3Objects(self.root.removeprefix("s3://"))
        return LocalObjects(Path(self.root))

    def uri(self, path: str) -> str:
        """The absolute URI of a relative path. Refuses paths that lead out of the root (StorageError)."""
        return f"{self.root.rstrip('/')}/{_inside(path)}"

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """All bytes of an object; IntegrityError, before reading, when it is larger than ``limit`` bytes."""
        deadline_s = self._allowance(limit or 0)
        return persist(lambda s: self._objects.read(path, limit, s), where=self.uri(path), deadline_s=deadline_s)

    def read_tagged(self, path: str, *, limit: int) -> tuple[bytes, str]:
        """All bytes of an object (at most ``limit``) and the tag of this state of it, for ``write_if``."""
        where, deadline_s = self.uri(path), self._allowance(limit)
        return persist(lambda s: self._objects.read_tagged(path, limit, s), where=where, deadline_s=deadline_s)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; IntegrityError when the object ends before that."""
        if length == 0:
            return b""
        where, deadline_s = self.uri(path), self._allowance(length)
        data = persist(lambda s: self._objects.read_range(path, start, length, s), where=where, deadline_s=deadline_s)
        if len(data) != length:
            what = f"expected {length} bytes at {start}, got {len(data)}"
            raise IntegrityError(what, where=where, do="run `verify`")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Create or replace an object; readers see the old bytes or all of the new ones."""
        deadline_s = self._allowance(len(data))
        persist(lambda s: self._objects.write(path, data, s), where=self.uri(path), deadline_s=deadline_s)

    def write_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Replace the object only in the state of ``tag``, or create it only where there is none (``tag`` None).

        Returns the new state's tag; None when the condition did not hold, and also when the write of an attempt whose
        answer was lost made it fail: read to know. Some servers ignore the condition: see ``swap.py``.
        """
        where, deadline_s = self.uri(path), self._allowance(len(data))
        return persist(lambda s: self._objects.write_if(path, data, tag, s), where=where, deadline_s=deadline_s)

    def upload(self, local: Path, path: str) -> None:
        """Like ``write``, from a local file."""
        deadline_s = self._allowance(local.stat().st_size)
        persist(lambda s: self._objects.upload(local, path, s), where=self.uri(path), deadline_s=deadline_s)

    def download(self, path: str, local: Path, *, size: int | None = None) -> str:
        """Copy an object to a local file, which appears whole or not at all; the SHA-256 (hex) of what was copied.

        ``size``, where known, saves a request, and an object that is larger is refused before it is read
        (IntegrityError).
        """
        where, deadline_s = self.uri(path), self._allowance(self.size(path) if size is None else size)
        with replacing(local, durable=False) as part:
            return persist(lambda s: self._objects.download(path, part, size, s), where=where, deadline_s=deadline_s)

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        try:
            self.size(path)
        except ObjectMissingError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return persist(lambda s: self._objects.size(path, s), where=self.uri(path), deadline_s=self.deadline_s)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder ``prefix`` ("" for all), sorted by path; empty when there are none."""
        prefix = prefix.strip("/")
        where = self.uri(prefix) if prefix else self.root
        found = persist(lambda s: self._objects.list(prefix, s), where=where, deadline_s=self.deadline_s)
        return sorted((ObjectInfo(path, size) for path, size in found), key=lambda o: o.path)

    def delete(self, path: str) -> None:
        """Remove an object; a missing one is fine."""
        persist(lambda s: self._objects.delete(path, s), where=self.uri(path), deadline_s=self.deadline_s)

    def _allowance(self, size: int) -> float:
        return self.deadline_s + size / SLOWEST_BYTES_S


def normal_root(root: str) -> str:
    """A root without trailing slashes, local ones absolute. RunFileError for any other kind of URI."""
    if root.startswith("s3://"):
        match = S3_ROOT.fullmatch(root)
        if match is None or ".." in root.split("/"):
            # Not repeated where someone wrote credentials into it.
            shown = "" if "@" in root else f": {root!r}"
            raise RunFileError(f"not an S3 location{shown}", do="write s3://bucket or s3://bucket/prefix")
        return f"s3://{match[1]}{match[2]}"
    local = root.removeprefix("file://")
    if not local or SCHEME.match(local):
        raise RunFileError(f"not a storage location: {root!r}", do="use s3://bucket/prefix or a local folder")
    return str(Path(local).expanduser().absolute())


def _inside(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or {"", ".", ".."} & set(parts):
        raise StorageError(f"not a path below the storage root: {path!r}")
    return path
