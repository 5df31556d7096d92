"""This process's S3 client: s3fs to write, list and delete, our own connections to read."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import Any

from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import EndpointResolutionError, NoCredentialsError
from botocore.utils import parse_timestamp
from fsspec.asyn import sync
from s3fs import S3FileSystem

from medfuncta_dist.storage.connection_faults import no_address
from medfuncta_dist.storage.connection_settings import choose_bundle, connection_variables
from medfuncta_dist.storage.first_contact import try_connection, unreachable
from medfuncta_dist.storage.s3.s3_get import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS,
    READ_TIMEOUT_S,
    BucketEndpoint,
    ConnectionPools,
    GetResponse,
)

CREDENTIALS_S = 60.0
"""Seconds until the provider is asked for credentials again; it renews them minutes before they expire."""

_opened: dict[tuple[object, ...], S3Client] = {}
_opening = threading.Lock()


class S3Client:
    """ConnectionPools with one set of credentials, for all threads of one process."""

    def __init__(self) -> None:
        session = AioSession()
        self.bundle = choose_bundle(session.get_config_variable("ca_bundle"))
        # Not only S3's client: also the one that fetches credentials.
        session.set_config_variable("ca_bundle", self.bundle.path)
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_read_time)
        self.files = _open_files(session)
        self.answered = False
        """Whether the storage has answered this client: what breaks after that is an outage, not a wrong setting."""
        self._connections = ConnectionPools(self.bundle)
        self._lock = threading.Lock()
        self._endpoints: dict[str, BucketEndpoint] = {}
        self._credentials: tuple[ReadOnlyCredentials | None, float] = (None, 0.0)

    def ask(self, request: Callable[[S3FileSystem], Awaitable[Any]], seconds: float) -> Any:
        """Run one request on the event loop of s3fs; it is cancelled when its time is over."""

        async def bounded() -> Any:
            return await asyncio.wait_for(request(self.files), seconds)

        return sync(self.files.loop, bounded)

    def get(
        self, bucket: str, key: str, seconds: float, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[GetResponse]:
        """The response to a GET, with its body not read yet."""
        endpoint, signer = self._endpoint(bucket, seconds), self.credentials(seconds)
        return self._connections.get(endpoint, key, signer, seconds, headers or {})

    def require_reachable(self, bucket: str, seconds: float) -> None:
        """UnreachableError when the bucket's host cannot be reached as this machine is set up."""
        try_connection(self._endpoint(bucket, seconds).base, self.bundle, seconds)

    def known_url(self, bucket: str) -> str:
        """The URL of the bucket; "" while it is not known."""
        return self._endpoints[bucket].base if bucket in self._endpoints else ""

    def credentials(self, seconds: float) -> ReadOnlyCredentials:
        """The credentials that requests are signed with now."""
        with self._lock:
            found, until = self._credentials
            if found is None or time.monotonic() > until:
                found = self.ask(_frozen_credentials, seconds)
                self._credentials = found, time.monotonic() + CREDENTIALS_S
            return found

    def _endpoint(self, bucket: str, seconds: float) -> BucketEndpoint:
        if bucket not in self._endpoints:
            self._endpoints[bucket] = self.ask(lambda files: _endpoint_of(files, bucket), seconds)
        return self._endpoints[bucket]


def s3_client() -> S3Client:
    """This process's client for the present environment variables (``AWS_ENDPOINT_URL``, credentials).

    One serves all threads. A forked child opens its own: it has no event loop of its parent's.
    """
    settings = _settings()
    with _opening:
        if settings not in _opened:
            _opened[settings] = S3Client()
        return _opened[settings]


def client_with_new_credentials(refused: S3Client, seconds: float) -> S3Client | None:
    """A client with the credentials of environment, files or cloud as of now; None if they are the refused ones."""
    with _opening:
        client = _opened.get(_settings(), refused)
        if client is refused:
            client = S3Client()
        if client.credentials(seconds) == refused.credentials(seconds):
            return None
        _opened[_settings()] = client
        return client


def _settings() -> tuple[object, ...]:
    return (os.getpid(), *connection_variables(os.environ))


def _open_files(session: AioSession) -> S3FileSystem:
    config = {
        # One layer owns retries (retry.py): three stacked layers keep a dead endpoint hanging for minutes.
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # Servers other than AWS answer a range with the whole object's checksum, or refuse checksum trailers.
        # Our own digests check the bytes instead, end to end.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": CONNECTIONS,
    }
    files = S3FileSystem(session=session, config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
    files.retries = 1  # the number of attempts: with 0, s3fs would send nothing
    return files


def _read_time(text: str) -> datetime:
    """The time that S3 gives, of an object in a list. botocore's own parser is for dates of any form, and takes more
    than half of the processor time of a list."""
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    found: datetime = parse_timestamp(text)
    return found


async def _frozen_credentials(files: S3FileSystem) -> ReadOnlyCredentials:
    await files.set_session()
    found = await files.session.get_credentials()
    if found is None:
        raise NoCredentialsError
    return await found.get_frozen_credentials()


async def _endpoint_of(files: S3FileSystem, bucket: str) -> BucketEndpoint:
    """Taken from a presigned URL, because botocore has many rules for endpoints."""
    try:
        client = await files.set_session()
        url = await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    except (ValueError, EndpointResolutionError) as error:
        given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        raise unreachable(no_address(given)) from error
    region = client.meta.region_name
    return BucketEndpoint(
        url.partition("?")[0].removesuffix("k"), "us-east-1" if region in (None, "aws-global") else region
    )
