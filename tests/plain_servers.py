"""HTTP servers on 127.0.0.1 that say 200 to everything, with TLS or without, and addresses at which nobody answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.certificates import Certificate

ABOUT_CONNECTIONS = ("_CA_BUNDLE", "_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


def no_settings(environment: Mapping[str, str]) -> list[str]:
    """The variables of this machine that decide about connections, to be left out of a test."""
    return [name for name in environment if name.upper().endswith(ABOUT_CONNECTIONS)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...


@contextmanager
def answering(
    certificate: Certificate | None = None, version: ssl.TLSVersion | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Port, and the requests so far (method and path). ``version``: the only one of TLS that it speaks."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("ETag", '"0"')
            body = b"ok" if self.command == "GET" else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None: ...

    server = _Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        if version is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = version
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port, requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def dropping_port() -> Iterator[int]:
    """A port whose connections are neither accepted nor refused, as behind a firewall: its queue is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        try:
            yield int(server.getsockname()[1])
        finally:
            for one in waiting:
                one.close()
