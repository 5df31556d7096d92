"""Which requests are retried, for how long, and what the error says: against real sockets."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from medfuncta_dist.errors import (
    CredentialsError,
    DeadlineError,
    DiskFullError,
    IntegrityError,
    ObjectMissingError,
    StorageError,
    UnreachableError,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_failures import reason
from medfuncta_dist.storage.retry import FIRST_WAIT_S, LONGEST_WAIT_S, retry_request
from tests.unit.storage.flaky_server import BODY, Flaky, serving

ROOT = "s3://bucket/runs"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKNOWNKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@pytest.mark.parametrize("statuses", [[500], [503, 503], [429]])
def test_transient_failures_are_retried(statuses: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(statuses)
    with serving(flaky) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert ObjectStore(ROOT, deadline_s=20).read("a") == BODY
    assert flaky.requests == len(statuses) + 1


@pytest.mark.parametrize("request_of", [ObjectStore.read, ObjectStore.list])  # ours, and one through s3fs
def test_one_layer_owns_retries(
    request_of: Callable[[ObjectStore, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky([])
    with serving(flaky) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        ObjectStore(ROOT).read("a")  # opens the client, which takes a while
        flaky.statuses, flaky.requests = [500] * 1000, 0
        with pytest.raises(DeadlineError) as caught:
            request_of(ObjectStore(ROOT, deadline_s=2), "a")
    # Every request that the server saw is one of our attempts: neither s3fs nor botocore added any.
    assert f"({flaky.requests} attempt" in caught.value.where
    assert 2 <= flaky.requests <= 6
    assert "s3://bucket/runs/a" in caught.value.where
    assert "InternalError (HTTP 500)" in caught.value.what


def test_a_throttled_process_waits_for_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky([503], ["SlowDown"], retry_after_s=1)
    with serving(flaky) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        began = time.monotonic()
        assert ObjectStore(ROOT, deadline_s=20).read("a") == BODY
    assert time.monotonic() - began >= 1
    assert flaky.requests == 2


def test_expired_credentials_are_a_stop_that_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    flaky = Flaky([400] * 100, ["ExpiredToken"] * 100)
    with serving(flaky) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(CredentialsError, match="expired") as caught:
            ObjectStore(ROOT, deadline_s=30).read("a")
    assert caught.value.exit_code == 5
    assert flaky.requests == 1  # no other credentials are to be had, so nobody is asked again
    assert re.search(r"s3://bucket/runs/a \(1 attempt in \d\.\d s, rank 3\)", caught.value.where)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", StorageError),
        (403, "InvalidAccessKeyId", StorageError),
        (403, "SignatureDoesNotMatch", StorageError),
        (404, "NoSuchKey", ObjectMissingError),
        (404, "NoSuchBucket", StorageError),
        (400, "InvalidRequest", StorageError),
        (416, "InvalidRange", IntegrityError),
        (301, "PermanentRedirect", StorageError),
    ],
)
def test_permanent_failures_are_reported_at_once(
    status: int, code: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky([status] * 100, [code] * 100)
    with serving(flaky) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(error) as caught:
            ObjectStore(ROOT, deadline_s=30).read("a")
    assert type(caught.value) is error
    assert flaky.requests == 1
    assert "very-secret" not in str(caught.value)
    assert "AKIAKNOWNKEY" not in str(caught.value)


def test_a_server_that_is_silent_is_left_at_the_deadline(silent: None) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="no answer"):
        ObjectStore(ROOT, deadline_s=1.0).read("a")
    assert time.monotonic() - began < 20  # of the two minutes that an outage is waited for


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="refuses connections"):
        ObjectStore(ROOT).write("a", b"x")
    assert time.monotonic() - began < 20


def test_a_local_error_is_never_tried_again() -> None:
    calls = []

    def full(_: float) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device", "/archive/Doe_John.nii")

    with pytest.raises(DiskFullError) as caught:
        retry_request(full, where="here", deadline_s=30)
    assert len(calls) == 1
    assert "No space left on device" in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_reasons_hold_no_names() -> None:
    assert reason(ConnectionResetError(104, "reset", "/archive/Doe.nii")) == "Connection reset by peer"
    assert reason(ValueError("/archive/Doe.nii")) == "ValueError"


def test_workers_that_were_refused_together_do_not_come_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the longest waits, where an outage has brought all of them."""
    waits: list[list[float]] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waits[-1].append(seconds))

    def silent(_: float) -> None:
        if len(waits[-1]) == 9:
            raise ValueError("enough")
        raise TimeoutError

    for _ in range(4):
        waits.append([])
        with pytest.raises(StorageError):
            retry_request(silent, where="here", deadline_s=1000)
    for attempt, together in enumerate(zip(*waits, strict=True)):
        longest = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
        assert max(together) - min(together) > longest / 100
        assert longest / 2 <= min(together) <= max(together) <= longest
