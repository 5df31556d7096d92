"""Reading from S3 over plain connections: signed by botocore, sent by urllib3 on the thread that wants the bytes.

A request costs botocore's client a millisecond of Python, on one thread for all, and GETs are most of what this project
asks for. This is a fraction of that work without an event loop, and the deadline is looked at between any two pieces.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from s3fs.errors import translate_boto_error

from medfuncta_dist.errors import StorageError
from medfuncta_dist.storage.retry import attempt_s

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 30
CONNECTIONS = 64
PIECE = 2**18
"""Bytes taken from a connection at once, at most: no more has arrived yet, and less costs more calls."""
LARGEST_ERROR = 2**16
"""Bytes. S3's errors have a few hundred."""
ERROR_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")


class Place(NamedTuple):
    """Where a bucket's keys begin, and the region that requests are signed for."""

    base: str
    region: str


class Connections:
    """Kept open, and shared by all threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}

    @contextmanager
    def get(
        self, place: Place, key: str, signer: ReadOnlyCredentials, seconds: float, headers: Mapping[str, str]
    ) -> Iterator[Answer]:
        """The answer to a GET, its body not yet read.

        Raises for a refusal what s3fs would raise, TimeoutError, and urllib3's errors.
        """
        deadline = time.monotonic() + seconds
        request = AWSRequest("GET", place.base + quote(key, safe="/~"), headers=dict(headers))
        S3SigV4Auth(signer, "s3", place.region).add_auth(request)
        response = self._pool(place.base).request(
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
                raise translate_boto_error(_refusal(response, deadline))
            yield Answer(response, deadline)
        except BaseException:
            response.close()  # what is left of the body would be read by the connection's next user
            raise
        response.release_conn()

    def _pool(self, base: str) -> urllib3.PoolManager:
        with self._lock:
            if base not in self._pools:
                options: dict[str, Any] = {
                    "maxsize": CONNECTIONS,
                    "ca_certs": os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True),
                }
                proxy = get_environ_proxies(base).get(urlsplit(base).scheme)
                self._pools[base] = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            return self._pools[base]


class Answer:
    """A body that arrives: read it whole, or piece by piece, within the request's time."""

    def __init__(self, response: urllib3.BaseHTTPResponse, deadline: float) -> None:
        self._response = response
        self.tag = response.headers.get("ETag", "")
        self.size = _size(response)
        # A connection that is much slower than the others is given up for a new one.
        self._deadline = min(deadline, time.monotonic() + attempt_s(self.size))

    def pieces(self) -> Iterator[bytes]:
        """The body. TimeoutError when the time is over, urllib3's errors when it breaks off."""
        left = self.size
        while left > 0:
            # Never more than one receive: a body that trickles in must not keep us beyond the deadline.
            piece = self._response.read1(min(PIECE, left))
            if not piece:
                raise urllib3.exceptions.ProtocolError("the body broke off")
            yield piece
            left -= len(piece)
            if left and time.monotonic() > self._deadline:
                raise TimeoutError

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())


def _size(response: urllib3.BaseHTTPResponse) -> int:
    """Bytes of the body. StorageError where the answer does not say: a body that is cut could not be told from it."""
    size = response.headers.get("Content-Length", "")
    if not size.isdecimal():
        do = "let whatever lies between here and the storage (a proxy, a gateway) pass Content-Length on"
        raise StorageError("the storage's answer does not say how long the object is", do=do)
    return int(size)


def _refusal(response: urllib3.BaseHTTPResponse, deadline: float) -> ClientError:
    """As botocore words it. The text is searched, not parsed: it comes from outside, perhaps in pieces."""
    text = b""
    while len(text) < LARGEST_ERROR and time.monotonic() < deadline:
        piece = response.read1(LARGEST_ERROR - len(text))
        text += piece
        if not piece:
            break
    code = ERROR_CODE.search(text)
    headers = {name.lower(): value for name, value in response.headers.items()}
    answer = {"HTTPStatusCode": response.status, "HTTPHeaders": headers}
    told = {"Code": code[1].decode() if code else str(response.status)}
    return ClientError({"Error": told, "ResponseMetadata": answer}, "GetObject")
