"""Compare and swap on real stores of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.leases.compare_and_swap import MISSING, ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from tests.stores import KINDS, roots


@pytest.fixture(scope="module", params=KINDS)
def kind_and_root(request, tmp_path_factory) -> Iterator[tuple[str, Callable[[], str]]]:
    with roots(request.param, tmp_path_factory.mktemp(request.param)) as root:
        yield request.param, root


@pytest.fixture
def store(kind_and_root) -> ObjectStore:
    return ObjectStore(kind_and_root[1]())


def test_whether_a_store_honours_conditions_is_found_by_trying(kind_and_root, store):
    assert ConditionalStore.probe(store).conditional == (kind_and_root[0] != "rclone")
    assert store.list("") == []


def test_a_write_counts_only_on_what_was_seen(store):
    mine, other = ConditionalStore.probe(store), ConditionalStore.probe(store)
    first = mine.compare_and_swap("a/lease", MISSING, b"mine")
    assert first is not None
    assert first.data == b"mine"
    assert other.compare_and_swap("a/lease", MISSING, b"late") is None
    assert other.compare_and_swap("a/lease", other.read_state("a/lease"), b"other") is not None
    assert mine.compare_and_swap("a/lease", first, b"mine again") is None
    assert store.read("a/lease") == b"other"


def test_what_is_gone_is_not_replaced(store):
    conditional = ConditionalStore.probe(store)
    seen = conditional.compare_and_swap("lease", MISSING, b"mine")
    store.delete("lease")
    assert seen is not None
    assert conditional.compare_and_swap("lease", seen, b"mine again") is None
    assert not store.exists("lease")


def test_a_write_whose_answer_was_lost_counts(store):
    """The client sends it again, and the server refuses it then: it is there already."""
    conditional = ConditionalStore.probe(store)
    seen = conditional.compare_and_swap("lease", MISSING, b"first")
    assert seen is not None
    store.write("lease", b"second")
    if conditional.conditional:
        assert conditional.compare_and_swap("lease", seen, b"second") == conditional.read_state("lease")


class Resending(ObjectStore):
    """A store whose first answer to every write is lost, so that the client sends it again."""

    def write_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        super().write_if(path, data, tag)
        return super().write_if(path, data, tag)


def test_lost_answers_do_not_make_a_store_one_that_ignores_conditions(kind_and_root):
    kind, root = kind_and_root
    assert ConditionalStore.probe(Resending(root())).conditional == (kind != "rclone")


def test_a_large_object_is_no_lease(store):
    store.write("lease", b"x" * 2**17)
    with pytest.raises(MedfunctaError, match="65536"):
        ConditionalStore.probe(store).read_state("lease")


def test_a_server_without_conditional_writes_is_not_asked_again_and_again(monkeypatch):
    """501 NotImplemented is an answer, unlike other codes above 500."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), WithoutConditions)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert not ConditionalStore.probe(ObjectStore("s3://bucket/x", deadline_s=20)).conditional
    server.shutdown()
    server.server_close()


class WithoutConditions(BaseHTTPRequestHandler):
    """An S3 server without conditional writes: the requests that the trial sends."""

    protocol_version = "HTTP/1.1"  # clients ask before they send a body

    def do_PUT(self) -> None:
        self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")

    def do_DELETE(self) -> None:
        self.answer(204, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
