from __future__ import annotations

import io
import time

import pytest

from medfuncta_dist.telemetry.progress_bar import ProgressBar, formatted_notes, remaining
from medfuncta_dist.telemetry.progress_report import BytesDone, ProgressReport, format_bytes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(done: int, *, workers_started: bool = False, **notes: float | str) -> ProgressReport:
    return ProgressReport("train", done, 100, notes, workers_started)


def test_time_left_is_measured_from_where_this_command_began() -> None:
    assert remaining((100.0, 0), 110.0, 10, 100) == "time left 0:01:30"
    assert remaining((100.0, 500), 110.0, 510, 4110) == "time left 1:00:00"
    assert remaining((100.0, 5), 110.0, 5, 100) == "time left ?"
    assert remaining((100.0, 5), 110.0, 100, 100) == "done"


def test_plain_lines_now_and_then_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with ProgressBar("train", stream=stream, line_s=1e9) as progress:
        progress.notify("two workers")
        for done in range(1, 101):
            progress.show(report(done, loss=0.1))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "train: two workers",
        "train 1/100  time left ?  loss 0.1",
        "train 100/100  done  loss 0.1",
    ]


def test_the_end_is_printed_once_however_often_it_is_reported() -> None:
    stream = io.StringIO()
    with ProgressBar("train", stream=stream, line_s=1e9) as progress:
        progress.show(report(100, psnr=30.0))
        progress.show(report(100, psnr=30.0, checkpoint=1.8e9))
    assert stream.getvalue().splitlines() == ["train 100/100  done  psnr 30.00 dB"]


def test_a_restart_that_goes_back_measures_anew() -> None:
    stream = io.StringIO()
    with ProgressBar("train", stream=stream, line_s=0.0) as progress:
        for done in (50, 60, 20):
            progress.show(report(done))
    assert stream.getvalue().splitlines()[-1] == "train 20/100  time left ?"


def test_what_the_workers_first_unit_takes_is_not_taken_for_their_speed() -> None:
    stream = io.StringIO()
    with ProgressBar("train", stream=stream, line_s=0.0) as progress:
        progress.show(report(10, workers_started=True))
        time.sleep(0.3)
        progress.show(report(11))
        time.sleep(0.01)
        progress.show(report(50))
    lines = stream.getvalue().splitlines()
    assert lines == ["train 11/100  time left ?", "train 50/100  time left 0:00:00"]


def test_bytes_their_rate_and_the_time_that_follows_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("medfuncta_dist.telemetry.progress_bar.time.monotonic", lambda: now)
    stream = io.StringIO()
    with ProgressBar("pack", stream=stream, line_s=-1.0) as progress:
        for done, size in ((4, 10**9), (5, 2 * 10**9), (9, 4 * 10**9)):
            progress.show(ProgressReport("pack", done, 10, size=BytesDone(size, 4 * 10**9)))
            now += 10
    assert stream.getvalue().splitlines() == [
        "pack 4/10  1.0 GB of 4.0 GB  time left ?",
        "pack 5/10  2.0 GB of 4.0 GB, 100 MB/s  time left 0:00:20",
        "pack 9/10  4.0 GB of 4.0 GB, 150 MB/s  time left 0:00:00",  # the last one is an empty file
    ]


def test_sizes_as_people_read_them() -> None:
    shown = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9960: "10 kB", 999_600: "1.0 MB"}
    shown |= {123_456_789: "123 MB", 5 * 10**13: "50 TB", 3 * 10**16: "30000 TB"}
    assert {number: format_bytes(number) for number in shown} == shown


def test_notes_as_people_read_them() -> None:
    notes = {"loss": 0.0123456, "psnr": 31.456, "tasks": "3/4", "quarantined": 2, "checkpoint": 1.8e9}
    assert formatted_notes(notes) == {"loss": "0.0123", "psnr": "31.46 dB", "tasks": "3/4", "quarantined": "2"}


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with ProgressBar("train", stream=stream) as progress:
        progress.show(report(40, loss=0.123))
        progress.notify("a checkpoint is damaged [bold]")
        progress.show(report(100, loss=0.1))
    shown = stream.getvalue()
    assert "100/100" in shown
    assert "a checkpoint is damaged [bold]" in shown


def test_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("train") as progress:
        progress.show(ProgressReport("train", 2, 2))
    said = capsys.readouterr()
    assert said.out == ""
    assert "train 2/2" in said.err
