"""What servers, and what lies between them and us, may answer to a GET: real sockets, odd answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medfuncta_dist.errors import CredentialsError, IntegrityError, StorageError
from medfuncta_dist.storage.object_store import ObjectStore

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store whose server answers every GET so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        yield ObjectStore("s3://bucket/runs", deadline_s=10)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b"x" * 1000)


def of_unknown_length(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b"a body that ends with its connection")


def expired_in_pieces(request: BaseHTTPRequestHandler) -> None:
    request.send_response(400)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for piece in (b'<?xml version="1.0"?>', b"<Error><Code>Expired", b"Token</Code></Error>", b""):
        request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.flush()
        time.sleep(0.05)


def test_an_answer_without_a_length_is_refused_and_not_read_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(of_unknown_length, monkeypatch) as store:
        with pytest.raises(StorageError, match="how long") as caught:
            store.read("a")
        assert "Content-Length" in caught.value.do
        assert caught.value.where == "s3://bucket/runs/a"


def test_an_error_that_comes_in_pieces_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(expired_in_pieces, monkeypatch) as store, pytest.raises(CredentialsError, match="ExpiredToken"):
        store.read("a")


def test_a_server_that_knows_no_ranges_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(whole, monkeypatch) as store:
        assert len(store.read("a")) == 1000
        with pytest.raises(IntegrityError, match="1000 bytes where at most 10"):
            store.read_range("a", 0, 10)
