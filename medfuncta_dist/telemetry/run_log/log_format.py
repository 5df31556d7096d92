"""The stored form of a run's log: JSON lines in numbered chunks, one folder per driver. Pure.

    runs/<run>/logs/<attempt>/<chunk>.jsonl      attempt: 000003-20261128T101500-9f3a, chunk: 00000, 00001, …
    {"format_version": 1, "kind": "header", "attempt": 3, "chunk": 0, "run": "x", "submission": null, …}
    {"kind": "line", "time": 1795860000.1, "level": "info", "from": "driver", "stage": "fit", "text": "…"}
    {"kind": "end", "time": …, "exit": "done"}

Object stores do not append: the last chunk is rewritten as it grows, and is small, so little is written twice. The
middle of a long log is removed; its beginning and its end stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.storage.object_store import ObjectInfo
from medfuncta_dist.storage.parsing import strict_json

FORMAT_VERSION = 1
CHUNK_BYTES = 2**15
"""A chunk is closed beyond this: about 250 lines. It is rewritten each time that it is flushed with more lines."""
LARGEST_CHUNK = 4 * CHUNK_BYTES
CHUNKS_KEPT = 256
"""Of an attempt: 8 MiB."""
FIRST_CHUNKS = 32
"""Of these, the first ones: how a run began is worth as much as how it ended."""
ATTEMPTS_KEPT = 20
RUN_BYTES = 8 * CHUNKS_KEPT * CHUNK_BYTES
"""Of all attempts of a run: 64 MiB."""
ATTEMPT_NAME = re.compile(r"(\d{6,9})-\d{8}T\d{6}-[0-9a-f]{4}")
CHUNK_NAME = re.compile(r"(\d{5,9})\.jsonl")
DRIVER, WORKER, RAY = "driver", "worker", "ray"
"""Whose line it is. ``ray``: a message of Ray itself about the cluster."""
_MOVE_AWAY = "move it away: only these lines of the log are lost"


@dataclass(frozen=True)
class LogEntry:
    """One line. ``time`` is in Unix seconds; ``node`` is an IP address; ``stage`` is empty between stages."""

    time: float
    level: str
    source: str
    text: str
    stage: str = ""
    pid: int | None = None
    node: str | None = None
    rank: int | None = None

    def to_json(self) -> str:
        """As a line of a chunk."""
        fields = {name: value for name, value in asdict(self).items() if value is not None and name != "source"}
        return _line(fields | {"kind": "line", "from": self.source})

    @property
    def worker(self) -> str:
        """``rank 3, 4711 on 10.0.0.7``: which process of its kind, as far as it is known."""
        rank = [] if self.rank is None else [f"rank {self.rank}"]
        process = [] if self.pid is None else [f"{self.pid} on {self.node}" if self.node else str(self.pid)]
        return ", ".join(rank + process)


@dataclass(frozen=True)
class AttemptLog:
    """The chunks of one driver's log, as they were listed."""

    number: int
    """From 1, over all drivers that the run has had."""
    folder: str
    chunks: tuple[ObjectInfo, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(chunk.size for chunk in self.chunks)


def logs_folder(run: str) -> str:
    """Where a run's logs lie, relative to the storage root."""
    return f"runs/{run}/logs"


def attempt_name(number: int, moment: str, unique: str) -> str:
    """The folder of an attempt. ``moment``: ``20261128T101500``; ``unique`` (4 hex digits) keeps two writers apart."""
    return f"{number:06d}-{moment}-{unique}"


def chunk_path(folder: str, number: int) -> str:
    """The path of a chunk."""
    return f"{folder}/{number:05d}.jsonl"


def chunk_number(path: str) -> int:
    """The number in a chunk's path."""
    return int(path.rpartition("/")[2].removesuffix(".jsonl"))


def header_line(fields: dict[str, Any], chunk: int) -> str:
    """The first line of a chunk."""
    return _line({"format_version": FORMAT_VERSION, "kind": "header", **fields, "chunk": chunk})


def end_line(time: float, how: str) -> str:
    """The last line of an attempt that ended by itself: ``done``, or the class of the error."""
    return _line({"kind": "end", "time": time, "exit": how})


def group_attempts(objects: Iterable[ObjectInfo]) -> list[AttemptLog]:
    """What is listed below ``logs_folder``, by attempt, oldest first. Foreign files are left out."""
    ours = sorted((info for info in objects if _is_chunk(info.path)), key=lambda info: info.path)
    found = []
    for folder, chunks in groupby(ours, key=lambda info: info.path.rpartition("/")[0]):
        number = ATTEMPT_NAME.fullmatch(folder.rpartition("/")[2])
        found.append(AttemptLog(int(number[1]) if number else 0, folder, tuple(sorted(chunks, key=_by_number))))
    return sorted(found, key=lambda attempt: (attempt.number, attempt.folder))


def superseded(attempts: Sequence[AttemptLog]) -> list[str]:
    """The chunks to delete before another attempt begins: those of the oldest attempts, beyond number or size."""
    room, gone = RUN_BYTES - CHUNKS_KEPT * CHUNK_BYTES, False
    paths: list[str] = []
    for age, attempt in enumerate(reversed(attempts), start=1):
        room -= attempt.size
        gone = gone or age >= ATTEMPTS_KEPT or room < 0
        paths += [chunk.path for chunk in attempt.chunks] if gone else []
    return paths


def rotated_out(number: int) -> int | None:
    """The chunk to delete when chunk ``number`` begins; None while there is room."""
    oldest = number - (CHUNKS_KEPT - FIRST_CHUNKS)
    return oldest if number >= CHUNKS_KEPT else None


def parse_chunk(data: bytes, where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header, and the other lines. IntegrityError or FormatVersionError name the object."""
    lines = [strict_json.parse_object(line, "a line of a log", where, _MOVE_AWAY) for line in data.splitlines()]
    if not lines or lines[0].get("kind") != "header":
        raise IntegrityError("a chunk of a log has no header", where=where, do=_MOVE_AWAY)
    if lines[0].get("format_version") != FORMAT_VERSION:
        raise FormatVersionError(
            f"log format_version {lines[0].get('format_version')!r} is unknown; this version reads {FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if not all(map(_is_valid, lines[1:])):
        raise IntegrityError("a line of a log lacks what its kind should have", where=where, do=_MOVE_AWAY)
    return lines[0], lines[1:]


def entries(lines: Iterable[dict[str, Any]]) -> Iterator[LogEntry]:
    """The log lines among a chunk's parsed lines."""
    for line in lines:
        if line["kind"] == "line":
            places = {name: line.get(name) for name in ("pid", "node", "rank")}
            yield LogEntry(line["time"], line["level"], line["from"], line["text"], line.get("stage", ""), **places)


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"


def _is_chunk(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return CHUNK_NAME.fullmatch(name) is not None and ATTEMPT_NAME.fullmatch(folder.rpartition("/")[2]) is not None


def _by_number(info: ObjectInfo) -> int:
    return chunk_number(info.path)


def _is_valid(line: dict[str, Any]) -> bool:
    match line:
        case {"kind": "line", "time": int() | float(), "level": str(), "from": str(), "text": str()}:
            places = (line.get("pid"), line.get("rank"))
            return all(place is None or isinstance(place, int) for place in places)
        case {"kind": "end", "time": int() | float(), "exit": str()}:
            return True
    return False
