"""Writes a run's log to storage, in a thread of its own: a storage that does not answer costs lines, never the run."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_failures import reason
from medfuncta_dist.telemetry.run_log.log_format import (
    CHUNK_BYTES,
    attempt_name,
    chunk_path,
    end_line,
    group_attempts,
    header_line,
    logs_folder,
    rotated_out,
    superseded,
)
from medfuncta_dist.telemetry.storage_deadline import with_short_deadline

FLUSH_S = 5.0
"""Between writes, if there are new lines: a process that is killed loses at most so much of its log. Without new lines
nothing is requested."""
URGENT_S = 1.0
"""The same after an error, which may be the last thing that the process says."""
LONGEST_WAIT_S = 120.0
"""Between tries, while storage does not answer."""
CLOSE_S = 10.0
"""How long the end of a command waits for the last lines to be stored."""
PENDING_BYTES = 8 * CHUNK_BYTES
"""Of lines that wait for storage; beyond that the oldest are dropped, and counted."""


class LogUploader:
    """Takes lines (as JSON, see ``log_format``) and stores them. Every method returns at once, but for ``close``."""

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        header: dict[str, Any],
        notify: Callable[[str], None],
        *,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._store, self._run, self._header = with_short_deadline(store), run, header
        self._notify, self._flush_s = notify, flush_s
        self._adding, self._urgent, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._pending: deque[str] = deque()
        self._pending_bytes = self._dropped = self._failures = 0
        self._folder, self._number, self._open, self._dirty = "", 0, "", True
        self._thread = threading.Thread(target=self._write_regularly, name="run-log", daemon=True)
        self._thread.start()

    def add(self, line: str, *, urgent: bool = False) -> None:
        """Take a line; ``urgent``: write it soon."""
        with self._adding:
            self._pending.append(line)
            self._pending_bytes += len(line)
            while self._pending_bytes > PENDING_BYTES:
                self._pending_bytes -= len(self._pending.popleft())
                self._dropped += 1
        if urgent:
            self._urgent.set()

    def close(self, how: str) -> int:
        """Write what is left, for ``CLOSE_S`` at most. How many lines were never stored."""
        self.add(end_line(round(time.time(), 3), how))
        self._closing.set()
        self._urgent.set()
        self._thread.join(CLOSE_S)
        with self._adding:
            unwritten = len(self._pending) + self._open.count("\n") * self._dirty
            return self._dropped + unwritten * bool(self._failures or self._thread.is_alive())

    def _write_regularly(self) -> None:
        self._try_to_write()
        while not self._closing.is_set():
            if self._urgent.wait(self._wait_s()):
                self._closing.wait(URGENT_S)  # a traceback has more lines than its first
                self._urgent.clear()
            self._try_to_write()
        self._try_to_write()

    def _wait_s(self) -> float:
        return min(self._flush_s * 2.0**self._failures, LONGEST_WAIT_S)

    def _try_to_write(self) -> None:
        try:
            self._write()
            self._failures = 0
        except Exception as error:  # whatever it is: a log must not end a run
            if not self._failures:
                said = getattr(error, "what", None) or reason(error)
                self._notify(f"log: it could not be stored, and the run goes on without: {said}")
            self._failures = min(self._failures + 1, 10)

    def _write(self) -> None:
        if not self._folder:
            self._begin()
        while self._dirty or self._take_pending():
            self._store.write(chunk_path(self._folder, self._number), self._open.encode())
            self._dirty = False
            if len(self._open) >= CHUNK_BYTES:
                self._next_chunk()

    def _begin(self) -> None:
        """Make room, and take the next number."""
        before = group_attempts(self._store.list(logs_folder(self._run)))
        for path in superseded(before):
            self._store.delete(path)
        number = 1 + max((attempt.number for attempt in before), default=0)
        self._header |= {"attempt": number}
        self._open = header_line(self._header, 0)
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._folder = f"{logs_folder(self._run)}/{attempt_name(number, moment, secrets.token_hex(2))}"

    def _next_chunk(self) -> None:
        self._number += 1
        self._open = header_line(self._header, self._number)
        old = rotated_out(self._number)
        if old is not None:
            self._store.delete(chunk_path(self._folder, old))

    def _take_pending(self) -> bool:
        """Move as many lines as fit into the open chunk; whether there were any."""
        with self._adding:
            taken = []
            room = CHUNK_BYTES - len(self._open)
            while self._pending and room > 0:
                taken.append(self._pending.popleft())
                room -= len(taken[-1])
                self._pending_bytes -= len(taken[-1])
            self._open += "".join(taken)
            self._dirty = self._dirty or bool(taken)
        return bool(taken)
