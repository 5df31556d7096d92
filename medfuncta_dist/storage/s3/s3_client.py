"""This process's way to S3: s3fs for what it writes, lists and deletes, connections of its own for what it reads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from medfuncta_dist.storage.s3.s3_get import CONNECT_TIMEOUT_S, CONNECTIONS, READ_TIMEOUT_S, Answer, Connections, Place

CREDENTIALS_S = 60.0
"""How long credentials are used before their provider is asked again; it renews them minutes before they expire."""

_opened: dict[tuple[object, ...], S3Client] = {}
_opening = threading.Lock()


class S3Client:
    """Connections with one set of credentials, for all threads of one process."""

    def __init__(self) -> None:
        self.files = _open_files()
        self._connections = Connections()
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._credentials: tuple[ReadOnlyCredentials | None, float] = (None, 0.0)

    def ask(self, request: Callable[[S3FileSystem], Awaitable[Any]], seconds: float) -> Any:
        """Run one request on the event loop of s3fs; it is cancelled, not abandoned, when its time is over."""

        async def bounded() -> Any:
            return await asyncio.wait_for(request(self.files), seconds)

        return sync(self.files.loop, bounded)

    def get(
        self, bucket: str, key: str, seconds: float, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Answer]:
        """The answer to a GET, its body not yet read."""
        place, signer = self._place(bucket, seconds), self.credentials(seconds)
        return self._connections.get(place, key, signer, seconds, headers or {})

    def credentials(self, seconds: float) -> ReadOnlyCredentials:
        """What requests are signed with now."""
        with self._lock:
            found, until = self._credentials
            if found is None or time.monotonic() > until:
                found = self.ask(_frozen_credentials, seconds)
                self._credentials = found, time.monotonic() + CREDENTIALS_S
            return found

    def _place(self, bucket: str, seconds: float) -> Place:
        if bucket not in self._places:
            self._places[bucket] = self.ask(lambda files: _place_of(files, bucket), seconds)
        return self._places[bucket]


def s3_client() -> S3Client:
    """This process's client, by the environment that configures it (``AWS_ENDPOINT_URL``, credentials).

    One serves all threads. A forked child opens its own: the event loop of its parent is not there.
    """
    settings = _settings()
    with _opening:
        if settings not in _opened:
            _opened[settings] = S3Client()
        return _opened[settings]


def renewed(refused: S3Client, seconds: float) -> S3Client | None:
    """A client with the credentials that environment, files or cloud give now; None where they are the refused ones."""
    with _opening:
        client = _opened.get(_settings(), refused)
        if client is refused:
            client = S3Client()
        if client.credentials(seconds) == refused.credentials(seconds):
            return None
        _opened[_settings()] = client
        return client


def _settings() -> tuple[object, ...]:
    return (os.getpid(), *sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))


def _open_files() -> S3FileSystem:
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


async def _frozen_credentials(files: S3FileSystem) -> ReadOnlyCredentials:
    await files.set_session()
    found = await files.session.get_credentials()
    if found is None:
        raise NoCredentialsError
    return await found.get_frozen_credentials()


async def _place_of(files: S3FileSystem, bucket: str) -> Place:
    """As botocore's rules for endpoints have it: they are many, and a presigned address shows what they give."""
    client = await files.set_session()
    url = await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    region = client.meta.region_name
    return Place(url.partition("?")[0].removesuffix("k"), "us-east-1" if region in (None, "aws-global") else region)
