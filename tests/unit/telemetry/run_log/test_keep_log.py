"""A log in real storage, of real processes that end in every way."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.run_log import log_format, log_uploader
from medfuncta_dist.telemetry.run_log.keep_log import keep_log, level_of, note, take_ray_output
from medfuncta_dist.telemetry.run_log.log_format import chunk_path, parse_chunk
from medfuncta_dist.telemetry.run_log.log_reader import ALL, list_attempts, read_attempt, read_header
from medfuncta_dist.telemetry.run_log.log_uploader import FLUSH_S, URGENT_S, LogUploader
from tests.chaos.faulty_s3 import Faults, FaultyS3
from tests.unit.telemetry.run_log.driver import RUN

REPOSITORY = Path(__file__).parents[4]
SLACK_S = 3.0
"""Two cores, shared: how much later than planned something may be."""


def start(root: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.unit.telemetry.run_log.driver", root, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stored(root: str, number: int = -1) -> list[str]:
    store = ObjectStore(root)
    attempt = list_attempts(store, RUN)[number]
    return [entry.text for entry in read_attempt(store, attempt, ALL, lambda text: None)]


def last_stored(root: str) -> dict:
    store = ObjectStore(root)
    last = list_attempts(store, RUN)[-1].chunks[-1].path
    return parse_chunk(store.read(last), last)[1][-1]


def test_a_killed_process_loses_a_few_seconds_of_its_log_at_most(s3):
    root = s3()
    process = start(root, 0.1, 1000, "well")
    for line in process.stdout:
        if int(line) >= 90:
            break
    process.send_signal(signal.SIGKILL)
    killed = time.time()
    process.communicate(timeout=30)
    lines = stored(root)
    assert [line.split(" at ")[0] for line in lines] == [f"line {number}" for number in range(len(lines))]
    assert killed - float(lines[-1].split(" at ")[1]) <= FLUSH_S + SLACK_S
    assert last_stored(root)["kind"] == "line", "it had no time to write how it ended"


@pytest.mark.parametrize(
    ("how", "last", "exit_name"),
    [
        ("well", "line 2", "done"),
        ("integrity", "  do:    run `verify`", "IntegrityError"),
        ("crash", "FileNotFoundError", "FileNotFoundError"),
    ],
)
def test_how_a_process_ended_is_the_end_of_its_log(s3, how, last, exit_name):
    root = s3()
    process = start(root, 0.01, 3, how)
    _, err = process.communicate(timeout=60)
    lines = stored(root)
    assert lines[-1].startswith(last)
    assert last_stored(root)["exit"] == exit_name
    assert "DOE" not in "\n".join(lines)
    if how == "crash":
        assert any("tests" in line or "driver.py" in line or "another file" in line for line in lines), "the place"
        assert "DOE_JANE" in err, "people at the screen see all of it"


def test_an_error_is_stored_at_once(tmp_path):
    store = ObjectStore(str(tmp_path))
    with keep_log(store, RUN, None, []):
        print_an_error()
        time.sleep(URGENT_S + 1.5)
        assert "error: it is wrong" in stored(str(tmp_path)), "before the flush that is due"


def print_an_error() -> None:
    note(["error: it is wrong"])


def test_an_interrupt_is_no_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), keep_log(ObjectStore(str(tmp_path)), RUN, None, []):
        raise KeyboardInterrupt
    assert stored(str(tmp_path)) == ["the driver was stopped"]
    assert last_stored(str(tmp_path))["exit"] == "Interrupted"


def test_warnings_that_others_log_are_stored_and_still_shown(tmp_path, capfd):
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        with keep_log(ObjectStore(str(tmp_path)), RUN, None, []):
            logging.getLogger("theirs").warning("slow at 'Jane Doe'")
            logging.getLogger("theirs").info("nothing")
    finally:
        root.handlers = before
    assert stored(str(tmp_path)) == ["theirs: slow at <text>"]
    assert "slow at 'Jane Doe'" in capfd.readouterr().err


def test_attempts_are_counted_and_say_which_job_they_are_of(tmp_path):
    store = ObjectStore(str(tmp_path))
    for job in ("a", "b"):
        with keep_log(store, RUN, job, ["fit"]):
            pass
    attempts = list_attempts(store, RUN)
    assert [attempt.number for attempt in attempts] == [1, 2]
    assert [read_header(store, attempt)["submission"] for attempt in attempts] == ["a", "b"]


def test_rays_messages_become_one_sentence(tmp_path, capsys):
    died = {"pid": "raylet", "lines": ["A worker died or was killed while executing a task. Worker ID: ab"]}
    with keep_log(ObjectStore(str(tmp_path)), RUN, None, []):
        thread = threading.Thread(target=take_ray_output, args=(died, False))  # as Ray does
        thread.start()
        wait_for(lambda: "died" in capsys.readouterr().err)
        thread.join()
    assert capsys.readouterr() == ("", "")
    assert stored(str(tmp_path)) == [
        "a worker process died: what it was doing starts again",
        "A worker died or was killed while executing a task. Worker ID: ab",
    ]


def test_levels_of_our_lines():
    assert [level_of(line) for line in ("error: a", " warning: b", "fit 3/4")] == ["error", "warning", "info"]


def test_storage_that_does_not_answer_neither_stops_nor_slows_a_run(s3_server, s3, monkeypatch, capsys):
    root = s3()
    monkeypatch.setattr(log_uploader, "CLOSE_S", 2.0)
    with FaultyS3(s3_server.endpoint) as proxy:
        proxy.faults = Faults(hang_share=1.0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        began = time.monotonic()
        with keep_log(ObjectStore(root), RUN, None, []):
            for _ in range(1000):
                print_an_error()
            inside = time.monotonic() - began
    assert inside < 1.0
    assert time.monotonic() - began < 2.0 + SLACK_S
    assert "log: 1001 lines could not be stored" in capsys.readouterr().err


def test_a_failure_is_said_once_and_lines_wait_for_storage(s3_server, s3, monkeypatch):
    root, said = s3(), []
    with FaultyS3(s3_server.endpoint) as proxy:
        proxy.faults = Faults(error_share=1.0, error_status=403, error_code="AccessDenied")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        uploader = LogUploader(ObjectStore(root), RUN, {"run": RUN}, said.append, flush_s=0.1)
        for _ in range(3):
            uploader.add('{"kind":"line","time":1,"level":"info","from":"driver","text":"kept"}\n', urgent=True)
            time.sleep(1.2)
        assert len(said) == 1
        assert "AccessDenied" in said[0]
        proxy.faults = Faults()
        assert uploader.close("done") == 0
        assert stored(root) == ["kept"] * 3


def test_what_a_log_asks_of_storage(s3_server, s3, monkeypatch):
    """Nothing while nothing is said; else one request per flush, however much is said."""
    with FaultyS3(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        uploader = LogUploader(ObjectStore(s3()), RUN, {"run": RUN}, print, flush_s=0.5)
        wait_for(lambda: proxy.did["passed"] >= 2)  # a listing, and the first chunk
        begun = proxy.did["passed"]
        time.sleep(3.0)
        assert proxy.did["passed"] == begun, "an idle run asks for nothing"
        for _ in range(20):
            uploader.add('{"kind":"line","time":1,"level":"info","from":"driver","text":"x"}\n')
            time.sleep(0.1)
        time.sleep(1.0)
        assert 3 <= proxy.did["passed"] - begun <= 6
        uploader.close("done")
        assert begun <= 5


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_log_stays_within_its_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(log_format, "CHUNKS_KEPT", 6)
    monkeypatch.setattr(log_format, "FIRST_CHUNKS", 2)
    monkeypatch.setattr(log_uploader, "CHUNK_BYTES", 1000)
    store = ObjectStore(str(tmp_path))
    uploader = LogUploader(store, RUN, {"run": RUN}, print, flush_s=0.05)
    for number in range(300):
        uploader.add(f'{{"kind":"line","time":1,"level":"info","from":"driver","text":"line {number:03d}"}}\n')
        time.sleep(0.001)
    assert uploader.close("done") == 0
    (attempt,) = list_attempts(store, RUN)
    assert len(attempt.chunks) == 6
    assert attempt.chunks[:2] == tuple(sorted(attempt.chunks, key=lambda c: c.path))[:2]
    assert attempt.chunks[0].path == chunk_path(attempt.folder, 0)
    said: list[str] = []
    lines = [entry.text for entry in read_attempt(store, attempt, ALL, said.append)]
    assert (lines[0], lines[-1]) == ("line 000", "line 299")
    assert any("missing here" in text for text in said)


def test_more_lines_than_storage_takes_are_counted(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    uploader = LogUploader(ObjectStore(str(blocked)), RUN, {"run": RUN}, lambda text: None, flush_s=0.1)
    line = '{"kind":"line","time":1,"level":"info","from":"driver","text":"' + "x" * 900 + '"}\n'
    for _ in range(1000):
        uploader.add(line)
    assert uploader.close("done") >= 1000
    assert os.path.isfile(blocked)
