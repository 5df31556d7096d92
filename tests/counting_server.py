"""Counts the requests that reach a real S3 server: it stands before the server and passes everything on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "expect"}


class RequestCounts:
    """``counts``: requests by kind, "read", "size", "list", "write" or "delete"."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.paths: Counter[str] = Counter()
        """By kind and path, to find out who sends them."""
        self.url = ""
        self._lock = threading.Lock()

    def add(self, method: str, path: str) -> None:
        kind = kind_of(method, path)
        with self._lock:
            self.counts[kind] += 1
            self.paths[f"{kind} {urlsplit(path).path}"] += 1

    def take(self) -> dict[str, int]:
        """The counts since the last call."""
        with self._lock:
            taken = dict(sorted(self.counts.items()))
            self.counts.clear()
            return taken


def kind_of(method: str, path: str) -> str:
    """What a request is to those who pay for it."""
    if method == "GET":
        return "list" if {"list-type", "prefix"} & set(parse_qs(urlsplit(path).query, True)) else "read"
    return {"HEAD": "size", "DELETE": "delete"}.get(method, "write")


@contextmanager
def counting(endpoint: str) -> Iterator[RequestCounts]:
    """A server whose ``url`` serves what ``endpoint`` (http) does."""
    counts, upstream = RequestCounts(), urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.upstream = HTTPConnection(upstream, timeout=30)

        def finish(self) -> None:
            self.upstream.close()
            super().finish()

        def pass_on(self) -> None:
            counts.add(self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in NOT_PASSED_ON:
                    self.upstream.putheader(name, value)
            self.upstream.endheaders(body)
            answer = self.upstream.getresponse()
            data = answer.read()
            self.send_response_only(answer.status, answer.reason)
            size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            for name, value in answer.getheaders():
                if name.lower() not in NOT_PASSED_ON | {"content-length"}:
                    self.send_header(name, value)
            if size is not None and answer.status != 204:
                self.send_header("Content-Length", size)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    counts.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield counts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
