from __future__ import annotations

import io

import pytest

from medfuncta_dist.telemetry.progress_bar import Progress, remaining


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_time_left_is_measured_from_where_this_command_began() -> None:
    assert remaining((100.0, 0), 110.0, 10, 100) == "time left 0:01:30"
    assert remaining((100.0, 500), 110.0, 510, 4110) == "time left 1:00:00"
    assert remaining((100.0, 5), 110.0, 5, 100) == "time left ?"
    assert remaining((100.0, 5), 110.0, 100, 100) == "done"


def test_plain_lines_now_and_then_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Progress("train", 100, stream=stream, line_s=1e9) as progress:
        progress.say("two workers")
        for done in range(1, 101):
            progress.at(done, loss="0.1")
    lines = stream.getvalue().splitlines()
    assert lines == ["train: two workers", "train 1/100  time left ?  loss 0.1", "train 100/100  done  loss 0.1"]


def test_a_restart_that_goes_back_measures_anew() -> None:
    stream = io.StringIO()
    with Progress("train", 100, stream=stream, line_s=0.0) as progress:
        for done in (50, 60, 20):
            progress.at(done)
    assert stream.getvalue().splitlines()[-1] == "train 20/100  time left ?"


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Progress("train", 100, stream=stream) as progress:
        progress.at(40, loss="0.123")
        progress.say("a checkpoint is damaged [bold]")
        progress.at(100, loss="0.1")
    shown = stream.getvalue()
    assert "100/100" in shown
    assert "a checkpoint is damaged [bold]" in shown


def test_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 2) as progress:
        progress.at(2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "train 2/2" in said.err
