"""Progress for people, on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

LINE_S = 10.0
"""Between plain lines: often enough to see life, rare enough for a log."""


class Progress:
    """``with Progress("train", total) as progress: progress.at(120, loss="0.01")``. Safe to create in any process."""

    def __init__(self, title: str, total: int, *, stream: TextIO | None = None, line_s: float = LINE_S) -> None:
        self._title, self._total, self._line_s = title, total, line_s
        self._stream = stream or sys.stderr
        self._bar = _bar(self._stream) if self._stream.isatty() else None
        self._task = self._bar.add_task(title, total=total, left="", note="") if self._bar is not None else None
        self._started: tuple[float, int] | None = None
        self._last_line = float("-inf")
        self._done = -1

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: int, **notes: str) -> None:
        """``done`` of ``total`` are done. ``notes`` (``loss="0.0123"``) are shown behind."""
        now = time.monotonic()
        # The rate is measured from the first report on: a resumed run did not do its first steps in this second. A
        # restart goes back to its checkpoint, and starts the measurement again.
        if self._started is None or done < self._done:
            self._started = (now, done)
        self._done = done
        note = "  ".join(f"{name} {value}" for name, value in notes.items())
        left = remaining(self._started, now, done, self._total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, left=left, note=note)
        elif now - self._last_line >= self._line_s or done >= self._total:
            self._last_line = now
            self._print(f"{self._title} {done}/{self._total}  {left}  {note}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._print(f"{self._title}: {text}")

    def _print(self, line: str) -> None:
        print(line.rstrip(), file=self._stream, flush=True)


def remaining(started: tuple[float, int], now: float, done: int, total: int) -> str:
    """Time left in words, from (time, done) at the start; ``time left ?`` until something was done since."""
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
