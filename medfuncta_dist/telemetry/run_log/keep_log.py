"""Keeps the log of a run while its stages run here: what the driver prints, what its workers say, how it ended."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.run_log.log_format import DRIVER, LogEntry
from medfuncta_dist.telemetry.run_log.log_uploader import LogUploader
from medfuncta_dist.telemetry.run_log.ray_output import RayOutput
from medfuncta_dist.telemetry.run_log.redaction import ForeignLines, Scrubber, describe_error
from medfuncta_dist.telemetry.run_log.screen_copy import ScreenCopy
from medfuncta_dist.version import __version__

LAST_WORDS_S = 1.5
"""After an error: what workers have just written takes so long to come through Ray."""
_ABOUT_CLUSTER = RayOutput(Scrubber())
"""Remembers, for the whole process, what people were told about the cluster."""
_kept: RunLog | None = None
"""The log that is kept now. A process has one stderr, and so one log."""


class RunLog:
    """The log of one driver of a run."""

    def __init__(self, uploader: LogUploader, scrubber: Scrubber) -> None:
        self.stage = ""
        self._uploader, self._scrubber = uploader, scrubber
        self._foreign, self._ray = ForeignLines(scrubber), RayOutput(scrubber)
        self._lock = threading.Lock()
        self.has_workers = False

    def take_printed(self, line: str, ours: bool) -> None:
        """A line of this process's stderr."""
        if ours:
            self.add(level_of(line), self._scrubber.own(line))
        elif (admitted := self._foreign.admit(line)) is not None:
            self.add(admitted.level, admitted.text)

    def take_record(self, record: logging.LogRecord) -> None:
        """A warning or an error that other software logged here."""
        text = self._scrubber.foreign(f"{record.name}: {record.getMessage()}")
        self.add("error" if record.levelno >= logging.ERROR else "warning", text)
        if record.exc_info and record.exc_info[1] is not None:
            self.take_error(record.exc_info[1])

    def take_batch(self, batch: Mapping[str, Any]) -> None:
        """What Ray brings from workers."""
        self.has_workers = True
        with self._lock:
            for entry in self._ray.entries(batch, round(time.time(), 3), self.stage):
                self._put(entry)

    def take_error(self, error: BaseException) -> None:
        """An error that ends something."""
        for line in describe_error(error, self._scrubber.own):
            self.add("error", line)

    def add(self, level: str, text: str) -> None:
        """A line of the driver's."""
        if text.strip():
            self._put(LogEntry(round(time.time(), 3), level, DRIVER, text.rstrip(), self.stage))

    def _put(self, entry: LogEntry) -> None:
        self._uploader.add(entry.to_json(), urgent=entry.level == "error")


@contextmanager
def keep_log(store: ObjectStore, run: str, job: str | None, stages: Sequence[str]) -> Iterator[None]:
    """Keep the log of a run while the block runs. Nothing that goes wrong with it reaches the block.

    ``job``: the submission that this process is, if any. One log is kept at a time: inside another, this does nothing.
    """
    global _kept
    if _kept is not None:
        yield
        return
    began = round(time.time(), 3)
    header = {"run": run, "submission": job, "stages": list(stages), "version": __version__, "began": began}
    uploader = LogUploader(store, run, header, _print_line)
    log = _kept = RunLog(uploader, Scrubber.of(store.root))
    how = "done"
    try:
        with _copied_screen(log), _copied_logging(log):
            try:
                yield
            except BaseException as error:
                how = _how_it_ended(error)
                _record_end(log, error)
                raise
    finally:
        _kept = None
        lost = uploader.close(how)
        if lost:
            _print_line(f"log: {lost} lines could not be stored")


def enter_stage(stage: str) -> None:
    """From now on lines are of this stage."""
    if _kept is not None:
        _kept.stage = stage


def note(lines: Iterable[str]) -> None:
    """Put lines into the log that are printed elsewhere, or later."""
    for line in lines:
        if _kept is not None:
            _kept.take_printed(line, ours=True)


def take_ray_output(batch: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    """Take what Ray would print (its own function of these parameters): nothing of it is printed as it is."""
    with suppress(Exception):  # called in threads of Ray's, which must not end
        for sentence in _ABOUT_CLUSTER.sentences(batch, time.monotonic()):
            _print_line(sentence)
        if _kept is not None:
            _kept.take_batch(batch)


def level_of(line: str) -> str:
    """The level of a line that this package printed."""
    head = line.lstrip().lower()
    return "error" if head.startswith("error:") else "warning" if head.startswith("warning:") else "info"


def _print_line(text: str) -> None:
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _how_it_ended(error: BaseException) -> str:
    return "Interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else type(error).__name__


def _record_end(log: RunLog, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        log.add("warning", "the driver was stopped")
        return
    if log.has_workers:
        time.sleep(LAST_WORDS_S)
    log.take_error(error)


@contextmanager
def _copied_screen(log: RunLog) -> Iterator[None]:
    screen = sys.stderr
    copy = ScreenCopy(screen, log.take_printed)
    sys.stderr = copy
    try:
        yield
    finally:
        copy.end_copy()
        if sys.stderr is copy:
            sys.stderr = screen


@contextmanager
def _copied_logging(log: RunLog) -> Iterator[None]:
    root = logging.getLogger()
    handler = _LogHandler(log, prints=not root.handlers)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _LogHandler(logging.Handler):
    """Takes records of WARNING and above. Without another handler Python would have printed them, and so does this."""

    def __init__(self, log: RunLog, prints: bool) -> None:
        super().__init__(logging.WARNING)
        self._log, self._prints = log, prints

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # a record that cannot be formatted is not worth a run
            self._log.take_record(record)
        if self._prints and logging.lastResort is not None:
            logging.lastResort.handle(record)
