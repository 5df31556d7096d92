"""An HTTP server that answers as S3 does on a bad day: real sockets, scripted answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"at last"


class Flaky:
    """Gives one scripted status a request, then BODY with 200 for ever; counts the requests."""

    def __init__(self, statuses: Sequence[int], codes: Sequence[str] = (), retry_after_s: int | None = None) -> None:
        self.statuses, self.codes, self.requests = list(statuses), list(codes), 0
        self.retry_after_s = retry_after_s

    def answer(self) -> tuple[int, bytes]:
        self.requests += 1
        if not self.statuses:
            return 200, BODY
        code = self.codes.pop(0) if self.codes else "InternalError"
        return self.statuses.pop(0), f"<Error><Code>{code}</Code><Message>bad day</Message></Error>".encode()


@contextmanager
def serving(flaky: Flaky) -> Iterator[str]:
    """The server's address while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = flaky.answer()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status != 200 and flaky.retry_after_s is not None:
                self.send_header("Retry-After", str(flaky.retry_after_s))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
