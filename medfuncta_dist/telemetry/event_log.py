r"""Run events as JSON lines in storage: the loss history that reports are drawn from.

    runs/<name>/events/<attempt>.jsonl, then <attempt>.part0001.jsonl, …
    {"format_version": 1, "kind": "header", "attempt": "0003-…"}
    {"kind": "metrics", "time": 1760000000.0, "step": 40, "values": {"loss": 0.01}}
    {"kind": "event", "time": …, "name": "checkpoint", "fields": {"step": 40}}

Object stores do not append, so the open part is rewritten whole; parts are bounded, so that stays cheap. Attempt names
sort in the order of the attempts, and a later attempt's step replaces an earlier one's.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError, StorageError
from medfuncta_dist.storage.commit_record import record_paths
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.telemetry.artifact import Artifact, Role
from medfuncta_dist.telemetry.storage_deadline import with_short_deadline

FORMAT_VERSION = 1
FILE_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.part\d{4,})?\.jsonl")
FLUSH_S = 10.0
PART_BYTES = 2**20
"""At 150 bytes a line about 7 000 lines; a rewrite takes well under a second."""


Logged = tuple[int, dict[str, float]]
"""An outer step and its numbers, by name."""
LARGEST_PART = 16 * PART_BYTES
"""A part is closed at the first flush beyond ``PART_BYTES``."""
_MOVE_AWAY = "move it away: only the curves of that attempt are lost"


def events_folder(run: str) -> str:
    """Where a run's events lie, relative to the storage root."""
    return f"runs/{run}/events"


class EventLog:
    """A sink for one attempt. What is not flushed when the process is killed is lost: at most ``flush_s`` seconds.

    Regular flushes run in a thread of their own. Storage that does not answer costs only memory: the lines are kept,
    and written with the next flush.
    """

    def __init__(self, store: ObjectStore, run: str, attempt: str, *, flush_s: float = FLUSH_S) -> None:
        self._store, self._attempt, self._flush_s = with_short_deadline(store), attempt, flush_s
        self._base = f"{events_folder(run)}/{attempt}"
        self._part, self._flushed = 0, time.monotonic()
        self._dirty, self._failing = True, False
        self._unwritten: dict[str, bytes] = {}
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._start_part()
        self.flush()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log a line of numbers. Those that are not finite become null: JSON cannot write them."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._add({"kind": "metrics", "time": round(time.time(), 3), "step": step, "values": values})

    def event(self, name: str, **fields: Any) -> None:
        """Log a line that says what happened."""
        self._add({"kind": "event", "time": round(time.time(), 3), "name": name, "fields": fields})

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Pictures are not kept in events."""

    def artifact(self, artifact: Artifact, role: Role) -> None:
        """Nor are artifacts: storage has records of them."""

    def flush(self) -> None:
        """Write the open part, if anything was added since. May be called from any thread."""
        with self._writing:
            with self._adding:
                if self._dirty:
                    self._unwritten[self._path()] = "".join(self._lines).encode()
                self._dirty, self._flushed = False, time.monotonic()
            try:
                for path, data in list(self._unwritten.items()):
                    self._store.write(path, data)
                    with self._adding:  # a part may have grown, and been closed, meanwhile
                        if self._unwritten[path] is data:
                            del self._unwritten[path]
                self._failing = False
            except StorageError as error:
                self._warn(error)

    def close(self) -> None:
        """Write what is left."""
        self.flush()

    def _warn(self, error: StorageError) -> None:
        if not self._failing:
            print(f"telemetry: events could not be stored, and are kept for later: {error.what}", file=sys.stderr)
        self._failing = True

    def _start_part(self) -> None:
        self._lines: list[str] = []
        self._bytes = 0
        self._append({"format_version": FORMAT_VERSION, "kind": "header", "attempt": self._attempt})

    def _path(self) -> str:
        return f"{self._base}.part{self._part:04d}.jsonl" if self._part else f"{self._base}.jsonl"

    def _add(self, line: dict[str, Any]) -> None:
        with self._adding:
            self._append(line)
            self._dirty, full = True, self._bytes > PART_BYTES
            if full:
                self._unwritten[self._path()] = "".join(self._lines).encode()
                self._part, self._dirty = self._part + 1, False
                self._start_part()
            due = full or time.monotonic() - self._flushed >= self._flush_s
        if due and not self._writing.locked():
            threading.Thread(target=self.flush, name="events", daemon=True).start()

    def _append(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n")
        self._bytes += len(self._lines[-1])


def read_events(
    store: ObjectStore, run: str, notify: Callable[[str], object] | None = None
) -> Iterator[dict[str, Any]]:
    """Every line of every attempt, in order, headers left out. FormatVersionError or IntegrityError name the object.

    With ``notify``, files that are not event logs are skipped, each with a line: no result depends on them.
    """
    for path in record_paths(store, events_folder(run), FILE_NAMES):
        try:
            yield from _lines(store.read(path, limit=LARGEST_PART), store.uri(path))
        except (IntegrityError, ObjectMissingError) as error:
            if notify is None:
                raise
            notify(f"events of {path.rsplit('/', 1)[-1]} are left out: {error.what}")


def attempts(store: ObjectStore, run: str) -> list[str]:
    """Names of the attempts that left events, oldest first."""
    names = (path.rsplit("/", 1)[-1] for path in record_paths(store, events_folder(run), FILE_NAMES))
    return sorted({name.split(".", 1)[0] for name in names})


def history(
    store: ObjectStore, run: str, metric: str = "loss", notify: Callable[[str], object] | None = None
) -> list[tuple[int, float]]:
    """(step, value) of a metric, by step. Of a step that was taken again after a restart the last value counts."""
    found: dict[int, float] = {}
    for line in read_events(store, run, notify):
        if line["kind"] == "metrics" and line["values"].get(metric) is not None:
            found[line["step"]] = line["values"][metric]
    return sorted(found.items())


def logged_steps(store: ObjectStore, run: str, notify: Callable[[str], object] | None = None) -> list[Logged]:
    """All numbers that were logged, by step. Of a step that was taken again after a restart the last values count."""
    found: dict[int, dict[str, float]] = {}
    for line in read_events(store, run, notify):
        if line["kind"] == "metrics":
            finite = {name: value for name, value in line["values"].items() if value is not None}
            found.setdefault(line["step"], {}).update(finite)
    return sorted(found.items())


def _lines(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    parsed = [strict_json.parse_object(line, "a line of an event log", where, _MOVE_AWAY) for line in data.splitlines()]
    if not parsed or "format_version" not in parsed[0]:
        raise IntegrityError("an event log has no header", where=where, do=_MOVE_AWAY)
    version = parsed[0]["format_version"]
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"event log format_version {version!r} is unknown; this version reads {FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if parsed[0].get("kind") != "header" or not all(map(_is_valid, parsed[1:])):
        raise IntegrityError("a line of an event log lacks what its kind should have", where=where, do=_MOVE_AWAY)
    yield from parsed[1:]


def _is_valid(line: dict[str, Any]) -> bool:
    match line:
        case {"kind": "metrics", "time": int() | float(), "step": int(), "values": dict(values)}:
            return all(isinstance(value, int | float | None) for value in values.values())
        case {"kind": "event", "time": int() | float(), "name": str(), "fields": dict()}:
            return True
    return False
