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
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.storage.object_store import ObjectStore

FORMAT_VERSION = 1
FLUSH_S = 10.0
PART_BYTES = 2**20
"""At 150 bytes a line about 7 000 lines; a rewrite takes well under a second."""


def events_folder(run: str) -> str:
    """Where a run's events lie, relative to the storage root."""
    return f"runs/{run}/events"


class EventLog:
    """A sink for one attempt. What is not flushed when the process is killed is lost: at most ``flush_s`` seconds."""

    def __init__(self, store: ObjectStore, run: str, attempt: str, *, flush_s: float = FLUSH_S) -> None:
        self._store, self._attempt, self._flush_s = store, attempt, flush_s
        self._base = f"{events_folder(run)}/{attempt}"
        self._part, self._dirty = 0, False
        self._start_part()
        self.flush()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """A line of numbers. Not-finite ones become null, which JSON has a word for."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._add({"kind": "metrics", "time": round(time.time(), 3), "step": step, "values": values})

    def event(self, name: str, **fields: Any) -> None:
        """A line that says what happened."""
        self._add({"kind": "event", "time": round(time.time(), 3), "name": name, "fields": fields})

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Pictures are not kept in events."""

    def flush(self) -> None:
        """Write the open part, if anything was added since."""
        if not self._dirty:
            return
        self._store.write(self._path(), "".join(self._lines).encode())
        self._dirty, self._flushed = False, time.monotonic()
        if self._bytes > PART_BYTES:
            self._part += 1
            self._start_part()

    def close(self) -> None:
        """Write what is left."""
        self.flush()

    def _start_part(self) -> None:
        self._lines: list[str] = []
        self._bytes, self._flushed = 0, time.monotonic()
        self._append({"format_version": FORMAT_VERSION, "kind": "header", "attempt": self._attempt})
        self._dirty = self._part == 0

    def _path(self) -> str:
        return f"{self._base}.part{self._part:04d}.jsonl" if self._part else f"{self._base}.jsonl"

    def _add(self, line: dict[str, Any]) -> None:
        self._append(line)
        self._dirty = True
        if time.monotonic() - self._flushed >= self._flush_s or self._bytes > PART_BYTES:
            self.flush()

    def _append(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n")
        self._bytes += len(self._lines[-1])


def read_events(store: ObjectStore, run: str) -> Iterator[dict[str, Any]]:
    """Every line of every attempt, in order, headers left out. FormatVersionError or IntegrityError name the object."""
    for info in store.list(events_folder(run)):
        if info.path.endswith(".jsonl"):
            yield from _lines(store.read(info.path), store.uri(info.path))


def attempts(store: ObjectStore, run: str) -> list[str]:
    """Names of the attempts that left events, oldest first."""
    names = (info.path.rsplit("/", 1)[-1] for info in store.list(events_folder(run)))
    return sorted({name.split(".", 1)[0] for name in names if name.endswith(".jsonl")})


def history(store: ObjectStore, run: str, metric: str = "loss") -> list[tuple[int, float]]:
    """(step, value) of a metric, by step. Steps that were taken again after a restart count once: the last time."""
    found: dict[int, float] = {}
    for line in read_events(store, run):
        if line["kind"] == "metrics" and line["values"].get(metric) is not None:
            found[line["step"]] = line["values"][metric]
    return sorted(found.items())


def _lines(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    try:
        header, *lines = [json.loads(line) for line in data.decode().splitlines()]
        version = header["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("an event log is not JSON lines with a header", where=where) from error
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"event log format_version {version!r} is unknown; this version reads {FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    yield from lines
