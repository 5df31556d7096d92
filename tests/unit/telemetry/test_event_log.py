from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry import event_log
from medfuncta_dist.telemetry.event_log import EventLog, attempts, history, read_events


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def test_what_is_logged_is_read_back_in_order(store: ObjectStore) -> None:
    log = EventLog(store, "r", "000001-a")
    log.log(1, {"loss": 0.5, "psnr": math.nan})
    log.event("checkpoint", step=1)
    log.close()
    first, second = read_events(store, "r")
    assert (first["kind"], first["step"], first["values"]) == ("metrics", 1, {"loss": 0.5, "psnr": None})
    assert (second["kind"], second["name"], second["fields"]) == ("event", "checkpoint", {"step": 1})


def test_an_attempt_leaves_a_trace_at_once_and_a_flush_makes_the_rest_durable(store: ObjectStore) -> None:
    log = EventLog(store, "r", "000001-a", flush_s=1e9)
    assert attempts(store, "r") == ["000001-a"]
    log.log(1, {"loss": 0.5})
    assert history(store, "r") == []
    log.flush()
    assert history(store, "r") == [(1, 0.5)]


def test_lines_are_flushed_by_the_clock(store: ObjectStore) -> None:
    EventLog(store, "r", "000001-a", flush_s=0.0).log(1, {"loss": 0.5})
    deadline = time.monotonic() + 10
    while history(store, "r") != [(1, 0.5)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_storage_that_fails_loses_no_line(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(event_log, "PART_BYTES", 500)
    log = EventLog(store, "r", "000001-a", flush_s=1e9)
    folder = tmp_path / "runs/r/events"
    folder.rename(tmp_path / "kept")
    folder.write_bytes(b"a file where the folder was")
    for step in range(20):
        log.log(step, {"loss": float(step)})
        log.flush()
    folder.unlink()
    (tmp_path / "kept").rename(folder)
    log.log(20, {"loss": 20.0})
    log.close()
    assert history(store, "r") == [(step, float(step)) for step in range(21)]
    assert capsys.readouterr().err.count("kept for later") == 1


def test_damaged_files_can_be_passed_over_and_are_said(store: ObjectStore) -> None:
    log = EventLog(store, "r", "000002-b")
    log.log(1, {"loss": 0.5})
    log.close()
    store.write("runs/r/events/000001-a.jsonl", b"")
    said: list[str] = []
    assert history(store, "r", "loss", said.append) == [(1, 0.5)]
    assert len(said) == 1
    assert "000001-a" in said[0]


def test_parts_stay_bounded_and_whole(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "PART_BYTES", 500)
    log = EventLog(store, "r", "000001-a", flush_s=1e9)
    for step in range(40):
        log.log(step, {"loss": float(step)})
    log.close()
    sizes = [info.size for info in store.list("runs/r/events")]
    assert len(sizes) > 3
    assert max(sizes) < 700
    assert history(store, "r") == [(step, float(step)) for step in range(40)]
    assert attempts(store, "r") == ["000001-a"]


def test_steps_taken_again_after_a_restart_count_once(store: ObjectStore) -> None:
    for attempt, steps in (("000001-a", range(5)), ("000002-b", range(3, 7))):
        log = EventLog(store, "r", attempt)
        for step in steps:
            log.log(step, {"loss": step + int(attempt[5]) / 10})
        log.close()
    assert history(store, "r") == [(0, 0.1), (1, 1.1), (2, 2.1), (3, 3.2), (4, 4.2), (5, 5.2), (6, 6.2)]


def test_unknown_versions_and_other_files_are_refused_by_name(store: ObjectStore) -> None:
    store.write("runs/r/events/x.jsonl", json.dumps({"format_version": 99}).encode())
    with pytest.raises(FormatVersionError, match="99") as refused:
        list(read_events(store, "r"))
    assert refused.value.where.endswith("x.jsonl")
    store.write("runs/r/events/x.jsonl", b"\xff not json")
    with pytest.raises(IntegrityError):
        list(read_events(store, "r"))


@pytest.mark.parametrize("name", ["._{}", "{} (1).jsonl", "x/{}"])
def test_foreign_files_beside_are_no_events(tmp_path: Path, name: str) -> None:
    store = ObjectStore(str(tmp_path))
    log = EventLog(store, "r", "0000000001-20260101T000000-aaaa", flush_s=0)
    log.log(10, {"loss": 0.5})
    log.close()
    before = history(store, "r"), attempts(store, "r")
    [path] = [info.path for info in store.list("runs/r/events")]
    folder, _, own = path.rpartition("/")
    store.write(f"{folder}/{name.format(own)}", b"\x00\x05\x16\x07")
    assert (history(store, "r"), attempts(store, "r")) == before == ([(10, 0.5)], ["0000000001-20260101T000000-aaaa"])
