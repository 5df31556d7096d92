"""An HTTP proxy as companies have one: CONNECT for https, absolute addresses for http; it counts what it is asked.

with ProxyServer() as proxy:                          # passes on
with ProxyServer(answer=403) as proxy:                # refuses
with ProxyServer(password="user:word") as proxy:      # wants that
with ProxyServer(names={"s3.test": "127.0.0.1:9000"}) # knows names that this machine does not
"""

from __future__ import annotations

import select
import socket
import threading
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "proxy-authorization"}


class ProxyServer:
    """``asked`` lists the requests: ``CONNECT host:port``, or the method and the address of a plain one."""

    def __init__(
        self,
        answer: int | None = None,
        names: Mapping[str, str] | None = None,
        silent: bool = False,
        password: str = "",
    ) -> None:
        self.answer, self.silent = answer, silent
        allowed = f"Basic {b64encode(password.encode()).decode()}"
        self.names = dict(names or {})
        self.asked: list[str] = []
        proxy, self._ended = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def refused(self) -> bool:
                proxy.asked.append(f"{self.command} {self.path}")
                if proxy.silent:
                    proxy._ended.wait(60)
                unknown = bool(password) and self.headers.get("Proxy-Authorization") != allowed
                if proxy.answer is None and not proxy.silent and not unknown:
                    return False
                self.send_response(407 if unknown else proxy.answer or 504)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.close_connection = True
                return True

            def do_CONNECT(self) -> None:
                if self.refused():
                    return
                self.close_connection = True
                try:
                    upstream = socket.create_connection(proxy.place(self.path), 10)
                except OSError:
                    self.send_response(502)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.end_headers()
                with upstream:
                    _relay(self.connection, upstream, proxy._ended)

            def pass_on(self) -> None:
                if self.refused():
                    return
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                upstream = HTTPConnection(*proxy.place(url.netloc), timeout=20)
                path = url.path + (f"?{url.query}" if url.query else "")
                try:
                    upstream.request(self.command, path, body or None, headers)
                    answer = upstream.getresponse()
                    data = answer.read()
                except OSError:
                    self.send_error(502)
                    return
                finally:
                    upstream.close()
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP_BY_HOP | ({"content-length"} if self.command != "HEAD" else set()):
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = pass_on

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def place(self, address: str) -> tuple[str, int]:
        """Where a host and port are: as ``names`` say, else as given."""
        host, _, port = address.partition(":")
        found, _, at = self.names.get(host, f"{host}:{port or 80}").partition(":")
        return found, int(at)

    def __enter__(self) -> ProxyServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _relay(one: socket.socket, other: socket.socket, ended: threading.Event) -> None:
    while not ended.is_set():
        ready, _, _ = select.select([one, other], [], [], 0.1)
        for source in ready:
            try:
                data = source.recv(2**16)
                (other if source is one else one).sendall(data)
            except ConnectionError:
                return
            if not data:
                return
