"""Reading from S3 over plain connections: signed by botocore, sent by urllib3 on the thread that needs the bytes.

A request through botocore's client takes a millisecond of Python, on one thread for all, and most requests of this
project are GETs. This takes a fraction of that, without an event loop, and checks the deadline after each chunk.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from medfuncta_dist.errors import StorageError
from medfuncta_dist.storage.connection_settings import Bundle
from medfuncta_dist.storage.first_contact import open_pool
from medfuncta_dist.storage.retry import attempt_limit_s

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 30
CONNECTIONS = 64
CHUNK_BYTES = 2**18
"""The most bytes that are read from a connection at once: more has rarely arrived, and fewer cost more calls."""
LARGEST_ERROR = 2**16
"""Bytes. S3's error responses have a few hundred."""
ERROR_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")


class BucketEndpoint(NamedTuple):
    """The URL that a bucket's keys are appended to, and the region that requests are signed for."""

    base: str
    region: str


class ConnectionPools:
    """Open connections, shared by all threads of one process."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}

    @contextmanager
    def get(
        self,
        endpoint: BucketEndpoint,
        key: str,
        signer: ReadOnlyCredentials,
        seconds: float,
        headers: Mapping[str, str],
    ) -> Iterator[GetResponse]:
        """The response to a GET, with its body not read yet.

        Raises what s3fs would raise for an error response, TimeoutError, and urllib3's errors.
        """
        deadline = time.monotonic() + seconds
        request = AWSRequest("GET", endpoint.base + quote(key, safe="/~"), headers=dict(headers))
        S3SigV4Auth(signer, "s3", endpoint.region).add_auth(request)
        response = self._pool(endpoint.base).request(
            "GET",
            request.url,
            headers=dict(request.headers),
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, seconds), read=min(READ_TIMEOUT_S, seconds)),
        )
        try:
            if response.status not in (200, 206):
                raise translate_boto_error(_client_error(response, deadline))
            yield GetResponse(response, deadline)
        except BaseException:
            response.close()  # the connection's next user would read the rest of the body
            raise
        response.release_conn()

    def _pool(self, base: str) -> urllib3.PoolManager:
        with self._lock:
            if base not in self._pools:
                self._pools[base] = open_pool(base, self._bundle, maxsize=CONNECTIONS)
            return self._pools[base]


class GetResponse:
    """A response whose body is still arriving: read it whole, or chunk by chunk, within the request's time."""

    def __init__(self, response: urllib3.BaseHTTPResponse, deadline: float) -> None:
        self._response = response
        self.tag = response.headers.get("ETag", "")
        self.size = _size(response)
        # A connection that is far too slow is given up for a new one.
        self._deadline = min(deadline, time.monotonic() + attempt_limit_s(self.size))

    def chunks(self) -> Iterator[bytes]:
        """The body in chunks. TimeoutError when the time is over, urllib3's errors when the connection breaks."""
        left = self.size
        while left > 0:
            # One receive at a time: a slow body must not delay the check of the deadline.
            chunk = self._response.read1(min(CHUNK_BYTES, left))
            if not chunk:
                raise urllib3.exceptions.ProtocolError("the connection ended inside the body")
            yield chunk
            left -= len(chunk)
            if left and time.monotonic() > self._deadline:
                raise TimeoutError

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())


def _size(response: urllib3.BaseHTTPResponse) -> int:
    """Bytes of the body. StorageError without a Content-Length: a body that was cut short would look complete."""
    size = response.headers.get("Content-Length", "")
    if not size.isdecimal():
        do = "configure proxies and gateways between this machine and the storage to forward Content-Length"
        raise StorageError("the storage's response does not say how long the object is", do=do)
    return int(size)


def _client_error(response: urllib3.BaseHTTPResponse, deadline: float) -> ClientError:
    """The error response as botocore's error. Its XML is not trusted: it is searched, not parsed."""
    text = b""
    while len(text) < LARGEST_ERROR and time.monotonic() < deadline:
        chunk = response.read1(LARGEST_ERROR - len(text))
        text += chunk
        if not chunk:
            break
    code = ERROR_CODE.search(text)
    headers = {name.lower(): value for name, value in response.headers.items()}
    metadata = {"HTTPStatusCode": response.status, "HTTPHeaders": headers}
    body = {"Code": code[1].decode() if code else str(response.status)}
    return ClientError({"Error": body, "ResponseMetadata": metadata}, "GetObject")
