"""Objects in S3 through s3fs, one request at a time: no retries, no caches, and a time limit on every request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fsspec.asyn import sync
from s3fs import S3FileSystem

from medfuncta_dist.storage.retry import is_unmet_condition, refuse_above

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 30
CONNECTIONS = 64

_opened: dict[tuple[object, ...], S3FileSystem] = {}
_opening = threading.Lock()


def s3_file_system() -> S3FileSystem:
    """This process's S3 connection pool, by the environment that configures it (``AWS_ENDPOINT_URL``, credentials).

    One pool serves all threads. A forked child opens its own: the event loop of its parent is not there.
    """
    settings = (os.getpid(), *sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _opening:
        if settings not in _opened:
            _opened[settings] = _open()
        return _opened[settings]


def _open() -> S3FileSystem:
    config = {
        # One layer owns retries (retry.py): three stacked layers keep a dead endpoint hanging for minutes.
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # Servers other than AWS's answer a range with the whole object's checksum, or refuse checksum trailers.
        # Bytes are proved by our own digests instead, end to end.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": CONNECTIONS,
    }
    files = S3FileSystem(config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
    files.retries = 1  # counts attempts; with 0 s3fs would send nothing at all
    return files


class S3Objects:
    """Paths are relative to ``root`` ("bucket/prefix"); errors are s3fs' own, for retry.py to judge."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, path: str, limit: int | None, seconds: float) -> bytes:
        return self.read_tagged(path, limit, seconds)[0]

    def read_tagged(self, path: str, limit: int | None, seconds: float) -> tuple[bytes, str]:
        bucket, key = self._address(path)

        async def get(s3: S3FileSystem) -> tuple[bytes, str]:
            # One GET, never parallel ranges: a record being replaced is read as old or new, not as a mixture.
            answer = await s3._call_s3("get_object", Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                if limit is not None:
                    refuse_above(limit, int(answer["ContentLength"]))
                return await body.read(), str(answer["ETag"])

        found: tuple[bytes, str] = _ask(get, seconds)
        return found

    def read_range(self, path: str, start: int, length: int, seconds: float) -> bytes:
        data: bytes = _ask(lambda s3: s3._cat_file(self._key(path), start=start, end=start + length), seconds)
        return data

    def write(self, path: str, data: bytes, seconds: float) -> None:
        _ask(lambda s3: s3._pipe_file(self._key(path), data), seconds)

    def write_if(self, path: str, data: bytes, tag: str | None, seconds: float) -> str | None:
        bucket, key = self._address(path)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            answer = _ask(lambda s3: s3._call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition), seconds)
        except OSError as error:
            if is_unmet_condition(error):
                return None
            raise
        return str(answer["ETag"])

    def upload(self, local: Path, path: str, seconds: float) -> None:
        _ask(lambda s3: s3._put_file(str(local), self._key(path)), seconds)

    def download(self, path: str, local: Path, seconds: float) -> None:
        _ask(lambda s3: s3._get_file(self._key(path), str(local)), seconds)

    def size(self, path: str, seconds: float) -> int:
        bucket, key = self._address(path)
        head = _ask(lambda s3: s3._call_s3("head_object", Bucket=bucket, Key=key), seconds)
        return int(head["ContentLength"])

    def list(self, prefix: str, seconds: float) -> list[tuple[str, int]]:
        folder = self._key(prefix) if prefix else self.root
        found = _ask(lambda s3: s3._lsdir(folder, delimiter=""), seconds)
        skip = len(self.root) + 1
        return [(o["name"][skip:], int(o["size"])) for o in found if not o["name"].endswith("/")]

    def delete(self, path: str, seconds: float) -> None:
        _ask(lambda s3: s3._rm_file(self._key(path)), seconds)

    def _address(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._key(path).partition("/")
        return bucket, key

    def _key(self, path: str) -> str:
        return f"{self.root}/{path}"


def _ask(request: Callable[[S3FileSystem], Awaitable[Any]], seconds: float) -> Any:
    """Run one request on the event loop of s3fs; it is cancelled, not abandoned, when its time is over."""
    files = s3_file_system()

    async def bounded() -> Any:
        return await asyncio.wait_for(request(files), seconds)

    return sync(files.loop, bounded)
