"""A proxy in front of a real S3 server that injects the faults of networks, services and operators.

    with FaultyS3(upstream) as proxy:           # upstream: the real server's "http://127.0.0.1:port"
        proxy.faults = Faults(error_share=0.2)  # from now on, for every request that begins
        client(proxy.endpoint)                  # the same credentials and signatures as upstream
        proxy.faults = Faults()                 # no more faults
        proxy.did["error"]                      # how often it did what

It signs nothing: every header goes through as it came, Host included, so that a signature stays the client's own. It
runs in a thread of the process that opens it, on a port of 127.0.0.1 of its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, StreamReader, TCPConnector, web
from yarl import URL

PIECE = 2**16
"""Bytes passed on at once."""
SLOW_PIECES_A_S = 10
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}
NOT_SENT_BY_US = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


@dataclass(frozen=True)
class Faults:
    """What goes wrong. Shares are of the requests that ``methods`` and ``path`` pick; the others pass untouched.

    One number between 0 and 1 is drawn a request, and the shares are laid side by side: their sum is at most 1.
    """

    methods: frozenset[str] = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
    path: str = ""
    """Only requests whose path (with its query) holds this text."""
    error_share: float = 0.0
    """Answered without asking upstream: ``error_status``, and ``error_code`` as S3 words it."""
    error_status: int | tuple[int, ...] = (500, 503)
    """One of them is drawn. 503 is SlowDown, 507 is a full disk."""
    error_code: str = ""
    """Instead of the code that belongs to the status."""
    retry_after_s: int | None = None
    """Sent as ``Retry-After`` with the error."""
    lost_share: float = 0.0
    """Upstream does what it is asked to do, and its answer is replaced by a 500."""
    hang_share: float = 0.0
    """The connection stays open without any answer."""
    cut_share: float = 0.0
    """The connection ends after ``cut_after`` bytes of the answer's body."""
    cut_after: int = 1000
    slow_share: float = 0.0
    """The answer's body comes at ``bytes_per_s``."""
    bytes_per_s: int = 1000
    refused_key: str | None = None
    """Every request that is signed with an access key that begins so gets 403 ``refused_code``: "" for all."""
    refused_code: str = "ExpiredToken"


CODES = {500: "InternalError", 503: "SlowDown", 507: "InsufficientStorage", 429: "TooManyRequests"}


class FaultyS3:
    """``with FaultyS3(upstream) as proxy``; ``faults`` may be replaced at any time, ``did`` counts what was done."""

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.endpoint = ""
        self.faults = Faults()
        self.did: Counter[str] = Counter()
        self._upstream, self._random = upstream, random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-s3", daemon=True)

    def __enter__(self) -> FaultyS3:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        # As many connections as clients open: requests must wait for faults only, never for each other.
        self._client = ClientSession(
            auto_decompress=False,
            skip_auto_headers=NOT_SENT_BY_US,
            timeout=ClientTimeout(total=None),
            cookie_jar=DummyCookieJar(),
            connector=TCPConnector(limit=0),
        )
        every = web.Application()
        every.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(every, shutdown_timeout=0.1, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        faults, fault = self.faults, self._fault(request)
        self.did[fault] += 1
        match fault:
            case "refused":
                return _error(403, faults.refused_code)
            case "error":
                return self._drawn_error(faults)
            case "hang":
                await asyncio.sleep(3600)
        try:
            return await self._pass_on(request, faults, fault)
        except ConnectionResetError:
            self.did["left"] += 1
            return _error(500, "the client has left")

    def _fault(self, request: web.Request) -> str:
        faults = self.faults
        if faults.refused_key is not None and f"Credential={faults.refused_key}" in _signature(request):
            return "refused"
        if request.method not in faults.methods or faults.path not in request.raw_path:
            return "passed"
        drawn = self._random.random()
        for name in ("error", "lost", "hang", "cut", "slow"):
            drawn -= getattr(faults, f"{name}_share")
            if drawn < 0:
                return name
        return "passed"

    def _drawn_error(self, faults: Faults) -> web.Response:
        given = faults.error_status
        status = given if isinstance(given, int) else self._random.choice(given)
        self.did[str(status)] += 1
        headers = {} if faults.retry_after_s is None else {"Retry-After": str(faults.retry_after_s)}
        return _error(status, faults.error_code or CODES[status], headers)

    async def _pass_on(self, request: web.Request, faults: Faults, fault: str) -> web.StreamResponse:
        url = URL(self._upstream + request.raw_path, encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        body = request.content.iter_chunked(PIECE) if request.body_exists else None
        asked = self._client.request(request.method, url, headers=headers, data=body, allow_redirects=False)
        async with asked as answer:
            if fault == "lost":
                return _error(500, CODES[500])
            given = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=given)
            await response.prepare(request)
            async for piece in _pieces(answer.content, faults, fault):
                await response.write(piece)
            if fault == "cut" and request.transport is not None:
                request.transport.close()
                return response
            await response.write_eof()
            return response


async def _pieces(content: StreamReader, faults: Faults, fault: str) -> AsyncIterator[bytes]:
    """The answer's body, as far and as fast as the fault lets it through."""
    left = faults.cut_after if fault == "cut" else None
    most = max(1, faults.bytes_per_s // SLOW_PIECES_A_S) if fault == "slow" else PIECE
    while left is None or left > 0:
        piece = await content.read(most if left is None else min(most, left))
        if not piece:
            return
        yield piece
        left = None if left is None else left - len(piece)
        if fault == "slow":
            await asyncio.sleep(1 / SLOW_PIECES_A_S)


def _signature(request: web.Request) -> str:
    """Where the access key stands: in the Authorization header, or in the query of a presigned address."""
    query = request.query.get("X-Amz-Credential", "")
    return request.headers.get("Authorization", "") or f"Credential={query}"


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>a fault of the test's</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml", headers=headers)
