"""Counts the requests that an S3 server gets: a proxy in a process of its own, which passes connections on unchanged.

    python -m benchmarks.million.counting_proxy HOST:PORT      prints its own port; ends when its standard input does

``GET /counts`` is answered by the proxy: requests by method and kind of object, and bytes to and from the server.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 2**18
STORED = re.compile(r"/[^/]+/store/(?:datasets|runs)/[^/]+/(?:latents/[^/]+/)?([^/.]+)")
"""Whatever lies in a folder of a data set or a run; of a latent table's folder, which of its folders."""


def kind_of(target: str) -> str:
    """What a request's target is, by its path: ``archive``, ``shards``, ``packs``, ``parts``, ..., or ``other``."""
    path = unquote(urlsplit(target).path)
    found = STORED.match(path)
    return found[1] if found else "archive" if "/archive/" in path else "other"


def name_of(method: str, target: str) -> str:
    """What a request counts as, such as ``PUT shards``; of listings, what is listed."""
    parts = urlsplit(target)
    query = parse_qs(parts.query)
    if method == "GET" and ("list-type" in query or "prefix" in query):
        prefix = query.get("prefix", [""])[0]
        return f"LIST {kind_of(f'{parts.path.rstrip(chr(47))}/{prefix}/')}"
    return f"{method} {kind_of(target)}"


class CountingProxy:
    """Each connection has its own to the server: answers need not be understood, only passed on."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    async def serve(self) -> None:
        """Until standard input ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=PIECE)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            from_server, to_server = await asyncio.open_connection(*self._upstream, limit=PIECE)
            answers = asyncio.create_task(self._pass_answers(from_server, writer))
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._request(reader, to_server, writer):
                    pass
            # The client has gone: HTTP does not close one direction alone.
            answers.cancel()
            to_server.close()
        writer.close()

    async def _pass_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE):
                self.bytes["from server"] += len(piece)
                writer.write(piece)
                await writer.drain()
            writer.write_eof()

    async def _request(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if target == "/counts":
            self._tell(writer)
            return False
        self.requests[name_of(method, target)] += 1
        to_server.write(head)
        headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            await self._pass_chunks(reader, to_server)
        else:
            await self._pass(reader, to_server, int(headers.get(b"content-length", b"0")))
        await to_server.drain()
        return True

    async def _pass(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, size: int) -> None:
        while size > 0:
            piece = await reader.read(min(size, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(piece)
            self.bytes["to server"] += len(piece)
            to_server.write(piece)
            await to_server.drain()

    async def _pass_chunks(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        size = 1
        while size:
            line = await reader.readline()
            to_server.write(line)
            size = int(line.split(b";")[0], 16)
            await self._pass(reader, to_server, size + 2)  # with the line's end; after the last chunk, no trailers

    def _tell(self, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"requests": self.requests, "bytes": self.bytes}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    asyncio.run(CountingProxy(host, int(port)).serve())
