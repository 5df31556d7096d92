"""Bytes below one root URI: ``s3://bucket/prefix`` or a local folder, with the same meaning for both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, RunFileError, StorageError
from medfuncta_dist.storage.local_objects import LocalObjects, replacing
from medfuncta_dist.storage.request_failures import explain
from medfuncta_dist.storage.retry import SLOWEST_BYTES_S, retry_request

T = TypeVar("T")

S3_ROOT = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[^/]+)*)/*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's path below its store's root and its size in bytes."""

    path: str
    size: int
    version: str = field(default="", compare=False)
    """Changes when the object is replaced: its ETag, of a local file the time of its last change in ns."""
    modified: float = field(default=0.0, compare=False)
    """When it was written last (Unix seconds, by the storage's clock), as ``list`` finds it; else 0."""


Ask = Callable[[Callable[[float], Any]], Any]
"""Sends one request, which has so many seconds, with retries."""


class StorageBackend(Protocol):
    """The requests of one kind of storage: each has ``seconds`` to finish and raises its own errors."""

    def read(self, path: str, limit: int | None, seconds: float) -> bytes: ...
    def read_tagged(self, path: str, limit: int | None, seconds: float) -> tuple[bytes, str]: ...
    def read_range(self, path: str, start: int, length: int, seconds: float) -> bytes: ...
    def write(self, path: str, data: bytes, seconds: float) -> None: ...
    def write_if(self, path: str, data: bytes, tag: str | None, seconds: float) -> str | None: ...
    def upload(self, local: Path, path: str, seconds: float) -> None: ...
    def download(self, path: str, local: Path, limit: int | None, seconds: float) -> str: ...
    def size(self, path: str, seconds: float) -> int: ...
    def status(self, path: str, seconds: float) -> tuple[int, str]: ...
    def list(self, prefix: str, seconds: float) -> list[tuple[str, int, str, float]]: ...
    def folders(self, prefix: str, seconds: float) -> tuple[str, ...]: ...
    def walk(self, ask: Ask) -> Iterator[tuple[str, int, str]]: ...
    def delete(self, path: str, seconds: float) -> None: ...
    def delete_unfinished(self, prefix: str, seconds: float) -> int: ...
    def versioning(self, seconds: float) -> str: ...


class ObjectStore:
    """Objects below ``root``. It connects when first used, and pickles as its root and deadline alone.

    Every method may raise StorageError, DeadlineError (retries included, ``deadline_s`` seconds plus the transfer's
    allowance; in a throttled process up to twice that, unless it is short: ``retry.py``) and, where an object must
    exist, ObjectMissingError. Missing objects and refused credentials are reported at once; transient failures are
    retried with growing, jittered waits.
    """

    def __init__(self, root: str, deadline_s: float = 120.0) -> None:
        self.root, self.deadline_s = normal_root(root), deadline_s

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "deadline_s": self.deadline_s}

    def __repr__(self) -> str:
        return f"ObjectStore({self.root!r})"

    @cached_property
    def _backend(self) -> StorageBackend:
        if self.root.startswith("s3://"):
            from medfuncta_dist.storage.s3.s3_objects import S3Objects  # a local run needs no S3 client

            return S3Objects(self.root.removeprefix("s3://"))
        return LocalObjects(Path(self.root))

    def uri(self, path: str) -> str:
        """The absolute URI of a relative path. StorageError for a path that leads out of the root."""
        return f"{self.root.rstrip('/')}/{_checked(path)}"

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """All bytes of an object; IntegrityError, before reading it, when it is larger than ``limit`` bytes."""
        deadline_s = self._deadline(limit or 0)
        return retry_request(lambda s: self._backend.read(path, limit, s), where=self.uri(path), deadline_s=deadline_s)

    def read_tagged(self, path: str, *, limit: int) -> tuple[bytes, str]:
        """All bytes of an object (at most ``limit``) and the tag of this state of it, for ``write_if``."""
        where, deadline_s = self.uri(path), self._deadline(limit)
        return retry_request(lambda s: self._backend.read_tagged(path, limit, s), where=where, deadline_s=deadline_s)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; IntegrityError when the object ends before that."""
        if length == 0:
            return b""
        where, deadline_s = self.uri(path), self._deadline(length)
        data = retry_request(
            lambda s: self._backend.read_range(path, start, length, s), where=where, deadline_s=deadline_s
        )
        if len(data) != length:
            what = f"expected {length} bytes at {start}, got {len(data)}"
            raise IntegrityError(what, where=where, do="run `verify`")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Create or replace an object; readers see the old bytes or all of the new ones."""
        deadline_s = self._deadline(len(data))
        retry_request(lambda s: self._backend.write(path, data, s), where=self.uri(path), deadline_s=deadline_s)

    def write_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Replace the object only in the state of ``tag``, or create it only where there is none (``tag`` None).

        Returns the new state's tag; None when the condition was false. That can also be the effect of an earlier
        attempt whose answer was lost: read the object to know. Some servers ignore the condition: see
        ``compare_and_swap.py``.
        """
        where, deadline_s = self.uri(path), self._deadline(len(data))
        return retry_request(lambda s: self._backend.write_if(path, data, tag, s), where=where, deadline_s=deadline_s)

    def upload(self, local: Path, path: str) -> None:
        """Like ``write``, from a local file."""
        deadline_s = self._deadline(local.stat().st_size)
        retry_request(lambda s: self._backend.upload(local, path, s), where=self.uri(path), deadline_s=deadline_s)

    def download(self, path: str, local: Path, *, size: int | None = None) -> str:
        """Copy an object to a local file, which appears whole or not at all; returns the SHA-256 (hex) of the copy.

        ``size``, where known, saves a request, and an object that is larger is refused before it is read
        (IntegrityError).
        """
        where, deadline_s = self.uri(path), self._deadline(self.size(path) if size is None else size)
        with replacing(local, durable=False) as part:
            return retry_request(
                lambda s: self._backend.download(path, part, size, s), where=where, deadline_s=deadline_s
            )

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        try:
            self.size(path)
        except ObjectMissingError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return retry_request(lambda s: self._backend.size(path, s), where=self.uri(path), deadline_s=self.deadline_s)

    def info(self, path: str) -> ObjectInfo:
        """Size and version of an object."""
        where, deadline_s = self.uri(path), self.deadline_s
        return ObjectInfo(
            path, *retry_request(lambda s: self._backend.status(path, s), where=where, deadline_s=deadline_s)
        )

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder ``prefix`` ("" for all), sorted by path; empty when there are none."""
        prefix = prefix.strip("/")
        where = self.uri(prefix) if prefix else self.root
        found = retry_request(lambda s: self._backend.list(prefix, s), where=where, deadline_s=self.deadline_s)
        return sorted((ObjectInfo(*listed) for listed in found), key=lambda o: o.path)

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders right in the folder ``prefix``, sorted: a request per 1000, whatever lies in them."""
        prefix = prefix.strip("/")
        where, deadline_s = self.uri(prefix), self.deadline_s
        found = retry_request(lambda s: self._backend.folders(prefix, s), where=where, deadline_s=deadline_s)
        return tuple(sorted(found))

    def walk(self) -> Iterator[ObjectInfo]:
        """All objects in no particular order, a few of them in memory at once; each request may take ``deadline_s``."""

        def ask(request: Callable[[float], Any]) -> Any:
            return retry_request(request, where=self.root, deadline_s=self.deadline_s)

        try:
            yield from (ObjectInfo(*listed) for listed in self._backend.walk(ask))
        except OSError as error:
            raise explain(error, self.root) from error

    def delete(self, path: str) -> None:
        """Remove an object; no error if it is missing."""
        retry_request(lambda s: self._backend.delete(path, s), where=self.uri(path), deadline_s=self.deadline_s)

    def delete_unfinished(self, prefix: str) -> int:
        """Remove what killed writers have left below a folder in which nobody writes now; how many files. In S3, where
        they are parts of uploads that no listing shows, it removes nothing: a lifecycle rule of the bucket does."""
        return retry_request(
            lambda s: self._backend.delete_unfinished(prefix, s), where=self.uri(prefix), deadline_s=self.deadline_s
        )

    def versioning(self) -> str:
        """Whether the storage keeps objects that are deleted, as a bucket with versions does: "no", "enabled",
        "suspended" (those from before), or "unknown" where it does not say."""
        try:
            deadline_s = min(self.deadline_s, 20.0)  # a server that does not know the question is not asked for long
            return retry_request(self._backend.versioning, where=self.root, deadline_s=deadline_s)
        except StorageError:
            return "unknown"

    def _deadline(self, size: int) -> float:
        return self.deadline_s + size / SLOWEST_BYTES_S


def normal_root(root: str) -> str:
    """A root without trailing slashes, local ones absolute. RunFileError for any other URI."""
    if root.startswith("s3://"):
        match = S3_ROOT.fullmatch(root)
        if match is None or ".." in root.split("/"):
            # Not quoted if it may hold credentials.
            quoted = "" if "@" in root else f": {root!r}"
            raise RunFileError(f"not an S3 location{quoted}", do="write s3://bucket or s3://bucket/prefix")
        return f"s3://{match[1]}{match[2]}"
    local = root.removeprefix("file://")
    if not local or SCHEME.match(local):
        raise RunFileError(f"not a storage location: {root!r}", do="use s3://bucket/prefix or a local folder")
    return str(Path(local).expanduser().absolute())


def _checked(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or {"", ".", ".."} & set(parts):
        raise StorageError(f"not a path below the storage root: {path!r}")
    return path
