"""The log of a run or a job: from its pods or its cluster while it runs there, else from storage, which keeps it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from medfuncta_dist.config.load import load
from medfuncta_dist.errors import ClusterError, JobMissingError, MedfunctaError, ObjectMissingError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend, Job
from medfuncta_dist.submit.status.job_target import SUFFIXES, JobTarget, find_target
from medfuncta_dist.submit.status.next_command import Invocation
from medfuncta_dist.submit.status.stored_runs import possible_runs
from medfuncta_dist.telemetry.run_log.log_format import AttemptLog
from medfuncta_dist.telemetry.run_log.log_reader import (
    Wanted,
    follow_attempt,
    last_lines,
    list_attempts,
    read_attempt,
    read_header,
    render_entry,
)

LAST_LINES = 50
"""Of a failed run, in its status."""


@dataclass(frozen=True)
class LogRequest:
    """What ``logs`` was asked for. With any selection, the log in storage is read, some seconds behind."""

    follow: bool = False
    attempt: int | None = None
    stage: str | None = None
    worker: str | None = None
    tail: int | None = None

    @property
    def selects(self) -> bool:
        """Whether only storage can answer it."""
        return any(value is not None for value in (self.attempt, self.stage, self.worker))


@dataclass(frozen=True)
class LogSource:
    """A run in storage, and its job if one is meant."""

    store: ObjectStore
    run: str
    jobs: tuple[str, ...] = ()
    """Names of the job that is meant: its own, and its submission's. Empty: whatever driver came last."""


def find_stored_run(root: str, name: str) -> LogSource:
    """The run, or the job, of this name below a storage root. JobMissingError if there is none."""
    store = ObjectStore(root)
    if list_attempts(store, name):
        return LogSource(store, name)
    for run in possible_runs(name):
        with suppress(ObjectMissingError):
            store.size(f"runs/{run}/jobs/{name}.json")
            return LogSource(store, run, (name,))
    raise JobMissingError(
        f"the storage has no log of a run or a job named {name!r}",
        where=store.root,
        do="logs are kept by runs of this version and later; check the name and the root",
    )


def source_of(target: JobTarget) -> LogSource | None:
    """Where a target's log is stored; None if its run file cannot be read here."""
    if target.run is None:
        return None
    names = (target.name, *([target.job.submission_id] if target.job is not None else []))
    known = target.job is not None or target.record is not None
    return LogSource(ObjectStore(target.run.storage), target.run.name, names if known else ())


def read_job_log(
    target: JobTarget, backend: Backend, request: LogRequest, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The lines of a target's log, as ``{"text": …, "time": …}`` with more fields where they come from storage.

    ClusterError or JobMissingError where neither the cluster nor storage has a log.
    """
    source = source_of(target)
    if target.job is not None and not target.job.state.is_over and not request.selects:
        live = _live_lines(backend, target.job, request)
        if live is not None:
            yield from live
            return
    attempt = None if source is None else choose_attempt(source, request.attempt)
    if source is not None and attempt is not None:
        yield from stored_lines(source, attempt, request, say)
    elif target.job is not None and not request.selects:
        yield from map(asdict, _tail(backend.read_logs(target.job.name, follow=request.follow), request.tail))
    else:
        raise _no_log(target.name, source)


def read_stored_log(source: LogSource, request: LogRequest, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The same from storage alone. JobMissingError where it has none."""
    attempt = choose_attempt(source, request.attempt)
    if attempt is None:
        raise _no_log(source.run, source)
    yield from stored_lines(source, attempt, request, say)


def find_log_target(text: str, backend: Backend, say: Callable[[str], None]) -> JobTarget:
    """The job that ``text`` means. A run file is enough for a log in storage: then the cluster need not answer."""
    try:
        return find_target(text, backend)
    except ClusterError as error:
        if not text.endswith(SUFFIXES):
            raise
        say(f"the cluster is not asked, the log is read from storage: {error.what}")
        run = load(text)
        return JobTarget(run.name, run)


def choose_attempt(source: LogSource, number: int | None) -> AttemptLog | None:
    """The log of the attempt of this number, or the last one (of the job, if one is meant); None if there is none.

    JobMissingError for a number that storage does not have.
    """
    attempts = list_attempts(source.store, source.run)
    if number is not None:
        return _numbered(attempts, number)
    if not source.jobs:
        return attempts[-1] if attempts else None
    for attempt in reversed(attempts):
        with suppress(MedfunctaError):  # a damaged chunk
            if read_header(source.store, attempt).get("submission") in source.jobs:
                return attempt
    return None


def stored_lines(
    source: LogSource, attempt: AttemptLog, request: LogRequest, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The lines of an attempt in storage."""
    wanted = Wanted(request.stage, request.worker)
    if request.follow:
        found = follow_attempt(source.store, source.run, attempt, wanted, say, request.tail)
    elif request.tail is not None:
        found = iter(last_lines(source.store, attempt, request.tail, wanted))
    else:
        found = read_attempt(source.store, attempt, wanted, say)
    for entry in found:
        yield asdict(entry) | {"attempt": attempt.number, "shown": render_entry(entry)}


def read_last_lines(target: JobTarget, count: int = LAST_LINES) -> list[str]:
    """The last lines of a target's log; none where there is no log, or storage does not answer."""
    source = source_of(target)
    with suppress(MedfunctaError):
        attempt = None if source is None else choose_attempt(source, None)
        if source is not None and attempt is not None:
            return [render_entry(entry) for entry in last_lines(source.store, attempt, count)]
    return []


def with_last_lines(answer: dict[str, Any], target: JobTarget, invocation: Invocation | None = None) -> dict[str, Any]:
    """The answer of ``status``: of a run that failed or was lost, with the end of its log."""
    if answer.get("state") not in ("failed", "lost"):
        return answer
    return add_last_lines(answer, read_last_lines(target), invocation or Invocation(target.name))


def add_last_lines(answer: dict[str, Any], lines: Sequence[str], invocation: Invocation) -> dict[str, Any]:
    """The answer with these lines under ``log``, and in what it says to people, if it does. Pure."""
    if not lines:
        return answer
    added = answer | {"log": list(lines)}
    if "said" not in answer:
        return added
    shown = [f"  last {len(lines)} lines of its log (`{invocation.logs_command}` has all):"]
    return added | {"said": [*answer["said"], *shown, *(f"    {line}" for line in lines)]}


def _no_log(name: str, source: LogSource | None) -> JobMissingError:
    return JobMissingError(
        f"there is no log of {name}",
        where="" if source is None else source.store.root,
        do="the run has not started yet, or an earlier version ran it: those kept no log in storage",
    )


def _live_lines(backend: Backend, job: Job, request: LogRequest) -> Iterator[dict[str, Any]] | None:
    """The lines from the cluster; None if it does not give them."""
    lines = backend.read_logs(job.name, follow=request.follow)
    try:
        first = next(lines, None)
    except ClusterError:
        return None
    return map(asdict, _tail(_chained(first, lines), request.tail)) if first is not None else None


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _tail(lines: Iterator[Any], count: int | None) -> Iterator[Any]:
    return lines if count is None else iter(deque(lines, maxlen=count))


def _numbered(attempts: Sequence[AttemptLog], number: int) -> AttemptLog:
    found = [attempt for attempt in attempts if attempt.number == number]
    if found:
        return found[-1]
    kept = ", ".join(str(attempt.number) for attempt in attempts) or "none"
    raise JobMissingError(f"there is no log of attempt {number}", do=f"choose from those that are kept: {kept}")
