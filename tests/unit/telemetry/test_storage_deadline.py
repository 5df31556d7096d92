from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry import storage_deadline
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.progress_record import ProgressRecorder, start_record
from medfuncta_dist.telemetry.progress_report import ProgressReport
from medfuncta_dist.telemetry.storage_deadline import TELEMETRY_DEADLINE_S, with_short_deadline


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Storage that accepts connections and never says a word."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(storage_deadline, "TELEMETRY_DEADLINE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield ObjectStore("s3://bucket/root", deadline_s=20)


def log_and_close(store: ObjectStore) -> None:
    log = EventLog(store, "r", "000001-a")
    log.event("started", step=0)
    log.close()


def record_and_leave(store: ObjectStore) -> None:
    with ProgressRecorder(store, "r", "fit") as writer:
        writer.record(ProgressReport("fit", 1, 2))


@pytest.mark.parametrize("tell", [log_and_close, record_and_leave])
def test_an_outage_does_not_keep_a_driver_from_its_end(
    tell: Callable[[ObjectStore], None], outage: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medfuncta_dist.telemetry.progress_record._previous_record",
        lambda *_: start_record(None, 0.0, "r", "fit", "scans", None),
    )
    began = time.monotonic()
    tell(outage)
    assert time.monotonic() - began < 12, "two writes of 1 s, and opening the client"


def test_a_shorter_deadline_stays() -> None:
    assert with_short_deadline(ObjectStore("s3://bucket", deadline_s=3)).deadline_s == 3
    assert with_short_deadline(ObjectStore("s3://bucket")).deadline_s == TELEMETRY_DEADLINE_S
