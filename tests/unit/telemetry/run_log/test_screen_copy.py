"""What is printed is on the screen as before, and copied by whole lines."""

from __future__ import annotations

import io
import sys
import warnings

from ray.experimental import tqdm_ray

from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import ProgressReport
from medfuncta_dist.telemetry.run_log.screen_copy import ScreenCopy


class Terminal(io.StringIO):
    """A screen that is one."""

    def isatty(self):
        return True


def copied(screen=None):
    lines = []
    return ScreenCopy(screen or io.StringIO(), lambda line, ours: lines.append((line, ours))), lines


def test_lines_are_copied_whole_and_what_others_print_is_told_apart():
    copy, lines = copied()
    for part in ("a warn", "ing\nand ", "more\n", "unfinished"):
        copy.write(part)
    assert lines == [("a warning", False), ("and more", False)]
    assert copy.getvalue() == "a warning\nand more\nunfinished"


def test_what_this_package_prints_is_ours(monkeypatch):
    copy, lines = copied()
    monkeypatch.setattr(sys, "stderr", copy)
    ProgressBar("fit").notify("a line")
    warnings.showwarning(UserWarning("theirs"), UserWarning, "x.py", 3)
    assert [ours for _, ours in lines] == [True, *[False] * (len(lines) - 1)]
    assert lines[0] == ("fit: a line", True)


def test_what_this_package_prints_through_rays_print_is_ours(monkeypatch):
    copy, lines = copied()
    monkeypatch.setattr(sys, "stderr", copy)
    monkeypatch.setattr("builtins.print", tqdm_ray.safe_print)
    ProgressBar("fit").notify("a line")
    assert lines == [("fit: a line", True)]


def test_a_progress_bar_leaves_its_lines_and_its_last_state_only(monkeypatch):
    copy, lines = copied(Terminal())
    monkeypatch.setattr(sys, "stderr", copy)
    with ProgressBar("fit") as bar:
        for done in range(50):
            bar.show(ProgressReport("fit", done, 50, {}))
            if done == 25:
                bar.notify("half of it")
        bar.show(ProgressReport("fit", 50, 50, {}))
    ours = [line for line, is_ours in lines if is_ours]
    assert "half of it" in ours
    assert len(lines) <= 4, "the bar was drawn fifty times"
    assert "\r" not in "".join(ours)


def test_a_failing_copy_does_not_stop_the_printing():
    def fail(line, ours):
        raise ValueError

    copy = ScreenCopy(io.StringIO(), fail)
    print("a line", file=copy)
    assert copy.getvalue() == "a line\n"


def test_after_its_end_it_only_prints():
    copy, lines = copied()
    copy.end_copy()
    print("later", file=copy)
    assert (lines, copy.getvalue()) == ([], "later\n")
