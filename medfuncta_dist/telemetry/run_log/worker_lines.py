"""What workers put into a run's log: lines on their stderr with a mark, which Ray carries to the driver.

Every worker imports this before its first task, so it imports next to nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, NamedTuple

from medfuncta_dist.telemetry.run_log.redaction import describe_error

QUICK_S = 1.0
"""Tasks that take less are not worth a line each."""
_MARKED = re.compile(r"\[medfuncta (info|warning|error)(?: rank (\d+))?\] (.*)")


class MarkedLine(NamedTuple):
    """A line that this package wrote in a worker."""

    level: str
    rank: int | None
    text: str


def write_line(text: str, level: str = "info", rank: int | None = None) -> None:
    """Write a line to this process's stderr itself, past whatever has taken the place of ``sys.stderr``."""
    place = "" if rank is None else f" rank {rank}"
    with suppress(OSError):  # stderr may be closed, or its disk full
        os.write(2, f"[medfuncta {level}{place}] {text}\n".encode(errors="replace"))


def parse_marked(line: str) -> MarkedLine | None:
    """The line without its mark; None for a line without one."""
    found = _MARKED.fullmatch(line.rstrip("\n"))
    return MarkedLine(found[1], int(found[2]) if found[2] else None, found[3]) if found else None


def logged(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The task, which says in its worker's log how long it took, or how it failed."""

    @wraps(task)
    def call(item: Any) -> Any:
        name, began = f"{type(item).__name__} {getattr(item, 'name', '')}".rstrip(), time.monotonic()
        with logging_errors(f"{name} failed"):
            result = task(item)
        seconds = time.monotonic() - began
        if seconds >= QUICK_S:
            write_line(f"{name} took {seconds:.1f} s")
        return result

    return call


@contextmanager
def logging_errors(what: str, rank: int | None = None) -> Iterator[None]:
    """Log an error that ends the block, then let it go on."""
    try:
        yield
    except Exception as error:
        for line in (what, *describe_error(error, str)):  # the driver cleans it: it knows the storage's root
            write_line(line, "error", rank)
        raise
