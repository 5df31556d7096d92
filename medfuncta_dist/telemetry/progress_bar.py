"""Progress for people, on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from medfuncta_dist.telemetry.progress_report import ProgressReport, format_size

LINE_S = 10.0
"""Between plain lines: often enough to see progress, rare enough for a log."""


class ProgressBar:
    """``with ProgressBar("train") as bar: bar.show(report)``. Safe to create in any process.

    The bar appears with the first report, when the total is known.
    """

    def __init__(self, title: str, *, stream: TextIO | None = None, line_s: float = LINE_S) -> None:
        self._title, self._line_s = title, line_s
        self._stream = stream or sys.stderr
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started: tuple[float, int] | None = None
        self._last_line = ("", float("-inf"))
        """And when it was printed."""
        self._done = -1

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, report: ProgressReport) -> None:
        """Show how far the stage is, the time left and the report's notes; without a terminal, now and then."""
        left = self._pace_and_time_left(report)
        note = "  ".join(f"{name} {value}" for name, value in formatted_notes(report.notes).items())
        if self._stream.isatty():
            self._update_bar(report, left, note)
        elif report.done >= report.total or (self._line_is_due() and not report.workers_started):
            self._print_line(f"{self._title} {report.done}/{report.total}  {left}  {note}")

    def notify(self, text: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._print(f"{self._title}: {text}")

    def _pace_and_time_left(self, report: ProgressReport) -> str:
        """Bytes and their rate where they are known, and time left in words.

        A restart goes back to its checkpoint, and starts the measurement again.
        """
        now, (done, total) = time.monotonic(), report.size or (report.done, report.total)
        if report.workers_started:
            self._started = None
        # The rate is measured from the first report on: a resumed run did not do its first steps in this second.
        elif self._started is None or done < self._done:
            self._started = (now, done)
        self._done = done
        since, first = self._started or (now, done)
        # What has no bytes of its own, such as an empty file, is left over at the end.
        left = "done" if report.done >= report.total else remaining((since, first), now, done, max(total, done + 1))
        if report.size is None:
            return left
        return f"{format_size(report.size, (done - first) / (now - since) if now > since else None)}  {left}"

    def _update_bar(self, report: ProgressReport, left: str, note: str) -> None:
        if self._bar is None or self._task is None:
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task(self._title, total=report.total, left="", note="")
            self._bar.start()
        self._bar.update(self._task, completed=report.done, total=report.total, left=left, note=note)

    def _line_is_due(self) -> bool:
        return time.monotonic() - self._last_line[1] >= self._line_s

    def _print_line(self, line: str) -> None:
        """Print a plain line of progress, unless it repeats the last one: a checkpoint changes none of it."""
        if line != self._last_line[0]:
            self._print(line)
        self._last_line = (line, time.monotonic())

    def _print(self, line: str) -> None:
        print(line.rstrip(), file=self._stream, flush=True)


def formatted_notes(notes: Mapping[str, float | str]) -> dict[str, str]:
    """A report's notes as people read them. When the last checkpoint was written is only for the record."""
    return {name: _formatted_note(name, value) for name, value in notes.items() if name != "checkpoint"}


def _formatted_note(name: str, value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f} dB" if name == "psnr" else f"{value:.3g}"


def remaining(started: tuple[float, int], now: float, done: int, total: int) -> str:
    """Time left in words, from (time, done) at the start; ``time left ?`` until something was done since then."""
    since, first = started
    if done >= total:
        return "done"
    if done <= first:
        return "time left ?"
    seconds = round((now - since) / (done - first) * (total - done))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"time left {hours}:{minutes:02d}:{seconds % 60:02d}"


def _bar(stream: TextIO) -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}  {task.fields[note]}"),
        console=Console(file=stream),
    )
