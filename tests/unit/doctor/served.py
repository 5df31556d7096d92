"""A real HTTP server on 127.0.0.1 that answers from a table: what a check asks of a cluster or a storage."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.certificates import Certificate

Answers = dict[tuple[str, str], Any]
"""(method, path) → the JSON to answer with, or an HTTP status, or a function of the request's headers and body."""


@contextmanager
def served(answers: Answers, date: str | None = None, certificate: Certificate | None = None) -> Iterator[str]:
    """The server's address. ``date``: what its clock says; ``certificate``: it speaks TLS with that."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = answers.get((self.command, urlsplit(self.path).path), 404)
            found = found(self.headers, sent) if callable(found) else found
            status, body = (found, {"message": "as the table says"}) if isinstance(found, int) else (200, found)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = handle_any

        def date_time_string(self, timestamp: float | None = None) -> str:
            return date or super().date_time_string(timestamp)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of who does not trust it
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def when(token: str, answer: Any) -> Callable[[Any, bytes], Any]:
    """``answer`` for who has the token, 401 for others."""
    return lambda headers, _: answer if headers.get("Authorization") == f"Bearer {token}" else 401
