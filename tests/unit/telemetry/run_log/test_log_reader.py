"""Reading a log, whole, its end, and while it grows."""

from __future__ import annotations

import threading
from itertools import islice

import pytest

from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.run_log import log_reader
from medfuncta_dist.telemetry.run_log.log_format import (
    LogEntry,
    attempt_name,
    chunk_path,
    end_line,
    header_line,
    logs_folder,
)
from medfuncta_dist.telemetry.run_log.log_reader import (
    ALL,
    Wanted,
    follow_attempt,
    last_lines,
    list_attempts,
    read_attempt,
    render_entry,
)

FOLDER = f"{logs_folder('x')}/{attempt_name(1, '20261128T101500', 'abcd')}"
DRIVER = LogEntry(1.0, "info", "driver", "one", "fit")
RANK = LogEntry(2.0, "error", "worker", "two", "train", 4711, "10.0.0.3", 3)
RAY = LogEntry(3.0, "warning", "ray", "three", "train")


def write(store, number, *lines, end=False):
    text = header_line({"attempt": 1}, number) + "".join(line.to_json() for line in lines)
    store.write(chunk_path(FOLDER, number), (text + (end_line(9.0, "done") if end else "")).encode())


@pytest.fixture
def store(tmp_path):
    store = ObjectStore(str(tmp_path))
    write(store, 0, DRIVER, RANK)
    write(store, 1, RAY, end=True)
    return store


def texts(store, wanted=ALL):
    (attempt,) = list_attempts(store, "x")
    return [entry.text for entry in read_attempt(store, attempt, wanted, lambda text: None)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ALL, ["one", "two", "three"]),
        (Wanted(stage="train"), ["two", "three"]),
        (Wanted(worker="driver"), ["one"]),
        (Wanted(worker="worker"), ["two"]),
        (Wanted(worker="rank 3"), ["two"]),
        (Wanted(worker="4711"), ["two"]),
        (Wanted(worker="10.0.0.3"), ["two"]),
        (Wanted(worker="10.0.0.3:4711"), ["two"]),
        (Wanted(worker="rank 33"), []),
        (Wanted(stage="fit", worker="ray"), []),
    ],
)
def test_lines_are_chosen(store, wanted, found):
    assert texts(store, wanted) == found


def test_the_end_is_read_from_the_last_chunks(store):
    (attempt,) = list_attempts(store, "x")
    assert [entry.text for entry in last_lines(store, attempt, 2)] == ["two", "three"]
    store.delete(chunk_path(FOLDER, 0))
    assert [entry.text for entry in last_lines(store, attempt, 1)] == ["three"], "the first chunk is not asked for"


def test_a_damaged_chunk_is_left_out_and_said(store):
    store.write(chunk_path(FOLDER, 0), b"damaged")
    (attempt,) = list_attempts(store, "x")
    said = []
    assert [entry.text for entry in read_attempt(store, attempt, ALL, said.append)] == ["three"]
    assert "left out" in said[0]


def test_a_follower_gets_each_line_once_as_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(log_reader, "POLL_S", 0.05)
    store = ObjectStore(str(tmp_path))
    write(store, 0, DRIVER)
    (attempt,) = list_attempts(store, "x")
    lines = follow_attempt(store, "x", attempt, ALL, lambda text: None)
    assert next(lines).text == "one"
    write(store, 0, DRIVER, RANK)
    assert next(lines).text == "two"
    write(store, 1, RAY, end=True)
    assert [entry.text for entry in lines] == ["three"]


def test_a_follower_of_what_is_there_begins_with_its_end(store):
    (attempt,) = list_attempts(store, "x")
    assert [entry.text for entry in follow_attempt(store, "x", attempt, ALL, lambda text: None, 1)] == ["three"]


def test_a_follower_ends_when_the_driver_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(log_reader, "POLL_S", 0.05)
    monkeypatch.setattr(log_reader, "LEASE_CHECK_S", 0.2)
    store, said = ObjectStore(str(tmp_path)), []
    write(store, 0, DRIVER)
    (attempt,) = list_attempts(store, "x")
    over = threading.Event()

    def drive():
        with hold_lease(store, run_lease("x"), 2.0, "x"):
            over.wait(30)

    driver = threading.Thread(target=drive)
    driver.start()
    lines = follow_attempt(store, "x", attempt, ALL, said.append)
    assert [entry.text for entry in islice(lines, 1)] == ["one"]
    threading.Timer(1.0, over.set).start()
    assert list(lines) == []
    assert over.is_set(), "it followed as long as there was a driver"
    assert "killed" in said[0]
    driver.join()


def test_a_line_for_people():
    assert render_entry(RANK) == "1970-01-01 00:00:02 train worker rank 3, 4711 on 10.0.0.3 | two"
