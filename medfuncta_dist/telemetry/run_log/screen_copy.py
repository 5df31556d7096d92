"""A copy of what this process prints on stderr, line by line; the screen gets everything as before."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TextIO

OnLine = Callable[[str, bool], None]
"""Called with a whole line, and whether this package printed it."""
LONGEST_BUFFER = 2**16
_DRAWS_LINE_ANEW = re.compile(r"\r(?!\n)|\x1b\[\d*[GK]")
_ITS_WAY = ("rich.", "contextlib", "ray.experimental.tqdm_ray", "medfuncta_dist.telemetry.run_log.screen_copy")
"""Modules that pass texts on. Ray puts a function of its progress bars in the place of ``print``."""


class ScreenCopy:
    """Stands in for ``sys.stderr``. What a progress bar draws over is no line: only the last state is copied."""

    def __init__(self, screen: TextIO, on_line: OnLine) -> None:
        self._screen, self._on_line = screen, on_line
        self._unfinished: dict[tuple[int, bool], str] = {}
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._screen, name)

    def write(self, text: str) -> int:
        """Print, then copy."""
        written = self._screen.write(text)
        if not self._closed:
            with suppress(Exception):  # whatever a copy fails of: what was printed is printed
                self._copy(text, is_ours(sys._getframe(1)))
        return written

    def writelines(self, lines: list[str]) -> None:
        """Print several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the screen."""
        self._screen.flush()

    def end_copy(self) -> None:
        """From now on only print: others may have kept this object."""
        self._closed = True

    def _copy(self, text: str, ours: bool) -> None:
        key = (threading.get_ident(), ours)
        *whole, rest = (self._unfinished.pop(key, "") + text).split("\n")
        for line in whole:
            self._on_line(_last_drawn(line), ours)
        if rest := _last_drawn(rest)[-LONGEST_BUFFER:]:
            self._unfinished[key] = rest


def is_ours(frame: FrameType | None) -> bool:
    """Whether this package printed: its function is the first one that is not of a library that passes texts on."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(_ITS_WAY):
            return module.startswith("medfuncta_dist.")
        frame = frame.f_back
    return False


def _last_drawn(line: str) -> str:
    return _DRAWS_LINE_ANEW.split(line.removesuffix("\r"))[-1]
