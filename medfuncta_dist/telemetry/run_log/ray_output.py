"""What Ray hands to a driver: the output of workers, and its own messages about the cluster.

Of the latter people see a sentence of ours, or nothing; the messages themselves go to the run's log. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from medfuncta_dist.telemetry.run_log.log_format import RAY, WORKER, LogEntry
from medfuncta_dist.telemetry.run_log.redaction import ForeignLines, Scrubber, plain
from medfuncta_dist.telemetry.run_log.worker_lines import parse_marked

MOST_STREAMS = 2000
"""Of which the state of a traceback is kept. Streams of processes that ended are forgotten with all others."""
SAY_AGAIN_S = 60.0
"""The same sentence is not printed more often."""
SAME_ERROR_S = 5.0
"""After an error that a worker told, a traceback in its output is of the same one."""
_OWN_NAMES = ("raylet", "gcs_server", "autoscaler", "runtime_env")
"""What Ray gives as a process id for its own processes."""
_SENTENCES = (
    (
        re.compile(r"killed due to memory pressure|OutOfMemory|out of memory.*kill", re.IGNORECASE),
        "a node ran out of memory, and Ray killed a process there: what it was doing starts again. If this comes back, "
        "give workers more memory, or run fewer of them per node",
    ),
    (
        re.compile(r"has been marked dead|[Nn]ode .* (?:died|is dead)|Raylet .* terminated|[Nn]ode terminated"),
        "a node is lost: what ran there starts again elsewhere",
    ),
    (
        re.compile(r"died or was killed while executing|Workers? crashed due to|worker died", re.IGNORECASE),
        "a worker process died: what it was doing starts again",
    ),
    (
        re.compile(r"is over \d+% full"),
        "a node's disk is nearly full: free space there, or the run will fail",
    ),
    (
        re.compile(r"cannot be scheduled right now|No available node types can fulfill|[Ii]nsufficient resources"),
        "the cluster has no room for what the run asks for: it waits for a node with enough CPUs, GPUs and memory",
    ),
    (
        re.compile(r"runtime.?env.*(?:fail|error)", re.IGNORECASE),
        "Ray could not set up the environment of a worker",
    ),
)


def sentence_of(message: str) -> str | None:
    """What a message of Ray's means for people; None if it needs nobody's attention."""
    return next((sentence for pattern, sentence in _SENTENCES if pattern.search(message)), None)


class RayOutput:
    """Turns batches, as Ray's driver receives them, into log lines and sentences."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._streams: dict[tuple[Any, ...], ForeignLines] = {}
        self._said: dict[str, float] = {}
        self._failed: dict[tuple[Any, ...], float] = {}
        """When a process last told an error itself."""

    def entries(self, batch: Mapping[str, Any], now: float, stage: str) -> Iterator[LogEntry]:
        """The log lines of a batch: those of this package, and warnings and errors of other software."""
        pid, node, own = batch.get("pid"), batch.get("ip"), batch.get("pid") in _OWN_NAMES
        stream = self._stream(pid, node, batch.get("is_err"))
        number = int(str(pid)) if str(pid).isdecimal() else None
        for line in _lines(batch):
            rank = None
            if marked := parse_marked(line):
                level, rank, text = marked.level, marked.rank, self._scrubber.own(marked.text)
                if level == "error":
                    self._failed[pid, node] = now
            elif own and sentence_of(line):
                level, text = "warning", self._scrubber.foreign(line)
            elif admitted := stream.admit(line):
                level, text = admitted
                if stream.tells_traceback and now - self._failed.get((pid, node), float("-inf")) < SAME_ERROR_S:
                    continue  # Ray prints the same error again
            else:
                continue
            yield LogEntry(now, level, RAY if own else WORKER, text, stage, number, node, rank)

    def sentences(self, batch: Mapping[str, Any], now: float) -> Iterator[str]:
        """What to tell people about Ray's own messages in a batch, each thing once a minute."""
        if batch.get("pid") not in _OWN_NAMES:
            return
        for line in _lines(batch):
            sentence = sentence_of(line)
            if sentence is not None and now - self._said.get(sentence, float("-inf")) >= SAY_AGAIN_S:
                self._said[sentence] = now
                yield sentence

    def _stream(self, *key: Any) -> ForeignLines:
        if len(self._streams) >= MOST_STREAMS:
            self._streams.clear()
            self._failed.clear()
        return self._streams.setdefault(key, ForeignLines(self._scrubber))


def _lines(batch: Mapping[str, Any]) -> Iterator[str]:
    for text in batch.get("lines", ()):
        yield from (line for line in plain(str(text).replace("\r", "\n")).split("\n") if line.strip())
