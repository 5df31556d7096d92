"""Reads a run's log from storage, whole or while it grows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from medfuncta_dist.errors import IntegrityError, MedfunctaError, ObjectMissingError
from medfuncta_dist.storage.leases.lease import parse_lease, run_lease
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.telemetry.run_log.log_format import (
    LARGEST_CHUNK,
    AttemptLog,
    LogEntry,
    chunk_number,
    entries,
    group_attempts,
    logs_folder,
    parse_chunk,
)

POLL_S = 3.0
"""Of a follower: one listing of the attempt's chunks, and a read of what has grown."""
LEASE_CHECK_S = 15.0
LARGEST_LEASE = 2**16
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """Which lines to read."""

    stage: str | None = None
    worker: str | None = None
    """``driver``, ``ray``, a rank (``rank 3``), a process or a node, or part of what is shown of them."""

    def accepts(self, entry: LogEntry) -> bool:
        """Whether the line is one of them."""
        if self.stage is not None and entry.stage != self.stage:
            return False
        if self.worker is None or self.worker == entry.source:
            return True
        places = {str(entry.pid), str(entry.node), f"{entry.node}:{entry.pid}", f"rank {entry.rank}"}
        return entry.source != "driver" and self.worker in places


ALL = Wanted()


def list_attempts(store: ObjectStore, run: str) -> list[AttemptLog]:
    """The logs of a run's drivers that storage has, oldest first."""
    return group_attempts(store.list(logs_folder(run)))


def read_header(store: ObjectStore, attempt: AttemptLog) -> dict[str, Any]:
    """What an attempt's log says of itself: ``submission``, ``stages``, ``began``."""
    first = attempt.chunks[0].path
    return parse_chunk(store.read(first, limit=LARGEST_CHUNK), store.uri(first))[0]


def read_attempt(store: ObjectStore, attempt: AttemptLog, wanted: Wanted, say: Say) -> Iterator[LogEntry]:
    """The lines of an attempt. ``say`` gets a line where chunks are missing or damaged."""
    yield from _Reading(store, attempt.folder, wanted, say).read(attempt.chunks)


def last_lines(store: ObjectStore, attempt: AttemptLog, count: int, wanted: Wanted = ALL) -> list[LogEntry]:
    """The last ``count`` lines of an attempt, from as few chunks as hold them."""
    found: list[LogEntry] = []
    for chunk in reversed(attempt.chunks):
        lines = list(_Reading(store, attempt.folder, wanted, lambda text: None).read([chunk]))
        found = lines + found
        if len(found) >= count:
            break
    return found[-count:] if count else []


def follow_attempt(
    store: ObjectStore, run: str, attempt: AttemptLog, wanted: Wanted, say: Say, tail: int | None = None
) -> Iterator[LogEntry]:
    """The lines of an attempt as they come, until its driver ends; of those that are there, the last ``tail``."""
    reading, alive, checked = _Reading(store, attempt.folder, wanted, say), _Alive(store, run), time.monotonic()
    yield from _last(reading.read(attempt.chunks), tail)
    while not reading.ended:
        time.sleep(POLL_S)
        chunks = [info for info in store.list(attempt.folder) if info.path.endswith(".jsonl")]
        yield from reading.read(sorted(chunks, key=lambda info: chunk_number(info.path)))
        if not reading.ended and time.monotonic() - checked >= LEASE_CHECK_S:
            checked = time.monotonic()
            if not alive.is_held():
                say("the driver has ended without a last line: it was killed, or its node was lost")
                return


def render_entry(entry: LogEntry, *, with_stage: bool = True) -> str:
    """A line for people: time of day (UTC), stage, who, text."""
    moment = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    who = " ".join(part for part in (entry.source, entry.worker) if part)
    stage = f" {entry.stage}" if with_stage and entry.stage else ""
    return f"{moment}{stage} {who} | {entry.text}"


def _last(lines: Iterable[LogEntry], count: int | None) -> Iterable[LogEntry]:
    return lines if count is None else deque(lines, maxlen=count)


@dataclass
class _Reading:
    """What has been read of an attempt's chunks, which only grow."""

    store: ObjectStore
    folder: str
    wanted: Wanted
    say: Say
    ended: bool = False
    """Whether the driver's last line was read."""
    _lines_read: dict[str, int] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _next: int | None = None

    def read(self, chunks: Iterable[ObjectInfo]) -> Iterator[LogEntry]:
        for chunk in chunks:
            if chunk.size == self._sizes.get(chunk.path):
                continue
            lines = self._new_lines(chunk)
            number = chunk_number(chunk.path)
            if self._next is not None and number > self._next:
                self.say(f"{number - self._next} chunks are missing here: the middle of a long log is removed")
            self._next = number + 1
            self.ended = self.ended or any(line["kind"] == "end" for line in lines)
            yield from (entry for entry in entries(lines) if self.wanted.accepts(entry))

    def _new_lines(self, chunk: ObjectInfo) -> list[dict[str, Any]]:
        where = self.store.uri(chunk.path)
        try:
            data = self.store.read(chunk.path, limit=LARGEST_CHUNK)
            lines = parse_chunk(data, where)[1]
        except (IntegrityError, ObjectMissingError) as error:
            self.say(f"a chunk of the log is left out: {error.what}")
            self._sizes[chunk.path] = chunk.size
            return []
        known = self._lines_read.get(chunk.path, 0)
        self._lines_read[chunk.path], self._sizes[chunk.path] = len(lines), len(data)
        return lines[known:]


class _Alive:
    """Whether the run's driver still renews its lease."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store, self._path = store, run_lease(run)
        self._beat, self._since = (-1, -1), time.monotonic()

    def is_held(self) -> bool:
        try:
            lease = parse_lease(self._store.read(self._path, limit=LARGEST_LEASE), self._store.uri(self._path))
        except ObjectMissingError:
            return False
        except MedfunctaError:
            return True  # nobody knows: the next answer tells
        if (lease.token, lease.beat) != self._beat:
            self._beat, self._since = (lease.token, lease.beat), time.monotonic()
        return not lease.free and time.monotonic() - self._since <= lease.ttl
