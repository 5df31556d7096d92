"""runs/<name>/progress/<stage>.json: how far a stage is, in one small object that its driver rewrites regularly.

    {"format_version": 1, "run": "x", "stage": "fit", "submission": "x-fit-1", "unit": "scans", "done": 40,
     "total": 112, "began": …, "started": …, "updated": …, "finished": null, "starts": 2, "held_s": 61.5,
     "gpu_s": 492.0, "used_s": 61.5, "cost": 0.0, "priced_s": 0.0, "samples": [[time, done], …],
     "notes": {"quarantined": 1}, "failure": null, "bytes_done": 0, "bytes_total": 0, "byte_samples": []}

It is for people and for the limits of a run (``kubernetes.max_hours``, ``max_cost``), and no result depends on it: what
is done is what has a commit record. Times are Unix seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType

from medfuncta_dist.errors import FormatVersionError, MedfunctaError, ObjectMissingError, RunFileError
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.telemetry.active_runs import mark_active
from medfuncta_dist.telemetry.progress_report import UNITS, BytesDone, ProgressReport
from medfuncta_dist.telemetry.storage_deadline import with_short_deadline

FORMAT_VERSION = 1
WRITE_S = 10.0
"""Between writes: a killed driver loses this much of its progress."""
SAMPLES = 16
RECENT_S = 600.0
"""The present rate is that of the last ten minutes: a stage that slowed down an hour ago shows its present speed."""
LARGEST = 2**16
"""Bytes."""
_MOVE_AWAY = "move it away: the stage's next driver writes a new one"


@dataclass(frozen=True)
class StageProgress:
    """``began`` is the stage's first start, ``started`` this driver's. ``held_s`` counts only time with a driver."""

    run: str
    stage: str
    unit: str
    """What ``done`` and ``total`` count: outer steps, scans or sources."""
    began: float
    started: float
    updated: float
    done: int = 0
    total: int = 0
    submission: str | None = None
    """The job that the driver runs in, if any."""
    finished: float | None = None
    starts: int = 1
    """Drivers that began it, and worker groups that had to start again."""
    held_s: float = 0.0
    gpu_s: float = 0.0
    """GPU-seconds: ``held_s`` times the GPUs held meanwhile."""
    used_s: float = 0.0
    """``held_s`` over the whole life of the run: it goes on counting when a finished stage is run again."""
    cost: float = 0.0
    """The price of the first ``priced_s`` of those seconds, as the run file had it then."""
    priced_s: float = 0.0
    samples: tuple[tuple[float, int], ...] = ()
    """(time, done) since ``started``, thinned: what a rate is measured from."""
    notes: dict[str, float] = field(default_factory=dict)
    """The stage's own figures: ``quarantined``, ``loss``, ``psnr``, ``checkpoint`` (when the last one was written)."""
    failure: dict[str, str] | None = None
    """``kind``, ``what`` and ``do`` of the error that ended the last driver."""
    bytes_done: int = 0
    bytes_total: int = 0
    """The same in bytes, for stages that report them; else 0. Records of earlier versions have neither."""
    byte_samples: tuple[tuple[float, int], ...] = ()
    """(time, bytes done), as ``samples``."""

    @property
    def size(self) -> BytesDone | None:
        """How far the stage is in bytes; None if it does not say."""
        return BytesDone(self.bytes_done, self.bytes_total) if self.bytes_total else None


def progress_path(run: str, stage: str) -> str:
    """Where it lies, relative to the storage root."""
    return f"runs/{run}/progress/{stage}.json"


def read_progress(store: ObjectStore, run: str, stage: str) -> StageProgress | None:
    """A stage's last record; None if it never began. IntegrityError or FormatVersionError name the object."""
    path = progress_path(run, stage)
    try:
        return _parse(store.read(path, limit=LARGEST), store.uri(path))
    except ObjectMissingError:
        return None


def advanced(progress: StageProgress, now: float, done: int, total: int, gpus: float, **notes: float) -> StageProgress:
    """The record after ``done`` of ``total``. Workers that went back to a checkpoint start a new measurement."""
    samples = () if done < progress.done else progress.samples
    held = max(0.0, now - progress.updated)
    return replace(
        progress,
        updated=now,
        done=done,
        total=total,
        held_s=progress.held_s + held,
        gpu_s=progress.gpu_s + held * gpus,
        used_s=progress.used_s + held,
        samples=thin_samples((*samples, (now, done))),
        notes={**progress.notes, **notes},
    )


def with_size(progress: StageProgress, size: BytesDone | None) -> StageProgress:
    """The record, after ``advanced``, with how far the stage is in bytes."""
    if size is None:
        return progress
    samples = () if size.done < progress.bytes_done or not progress.samples[:-1] else progress.byte_samples
    samples = thin_samples((*samples, (progress.updated, size.done)))
    return replace(progress, bytes_done=size.done, bytes_total=size.total, byte_samples=samples)


def priced(progress: StageProgress, per_hour: float | None) -> StageProgress:
    """The record with all of its time paid for: what had no price until now, at ``per_hour``. None: no price is known,
    and the time stays unpaid until one is."""
    if per_hour is None:
        return progress
    used = max(progress.used_s, progress.held_s)  # records of earlier versions have no used_s
    cost = progress.cost + per_hour * (used - progress.priced_s) / 3600
    return replace(progress, used_s=used, cost=cost, priced_s=used)


def thin_samples(samples: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
    """At most ``SAMPLES`` of them: of a full list every other one is removed, the first and the last stay."""
    if len(samples) <= SAMPLES:
        return samples
    return (*samples[:-1:2], samples[-1])


def rate(samples: Sequence[tuple[float, int]]) -> float | None:
    """Recent units per second; None until something was done since the first sample."""
    if len(samples) < 2:
        return None
    now, last = samples[-1]
    since, first = next((s for s in samples[:-1] if now - s[0] <= RECENT_S), samples[-2])
    return (last - first) / (now - since) if last > first and now > since else None


def start_record(
    former: StageProgress | None, now: float, run: str, stage: str, unit: str, job: str | None
) -> StageProgress:
    """The record of a driver that starts now. It goes on counting where an unfinished stage's former driver ended."""
    if former is None:
        return StageProgress(run, stage, unit, began=now, started=now, updated=now, submission=job)
    used = max(former.used_s, former.held_s)  # records of earlier versions have no used_s
    if former.finished is not None:
        new = StageProgress(run, stage, unit, began=now, started=now, updated=now, submission=job)
        return replace(new, used_s=used, cost=former.cost, priced_s=former.priced_s)
    starts = former.starts + 1
    again = replace(former, started=now, updated=now, starts=starts, samples=(), byte_samples=(), failure=None)
    return replace(again, used_s=used, submission=job)


class ProgressRecorder:
    """``with ProgressRecorder(...) as recorder: recorder.record(report)``. Telemetry: it never ends a run.

    ``fence`` is passed before every write: a driver that has lost its lease writes no more.

    What a finished stage left stays as it is until the next driver reports something, ends, or fails: a command that is
    refused before that (RunFileError: another salt, say) has done nothing, and leaves the stage finished.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        stage: str,
        *,
        gpus: float = 0.0,
        per_hour: float | None = None,
        job: str | None = None,
        fence: Fence | None = None,
        write_s: float = WRITE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._gpus, self._write_s, self._clock = with_short_deadline(store), gpus, write_s, clock
        self._fence, self._written, self._per_hour = fence, float("-inf"), per_hour
        former = _previous_record(store, run, stage)
        self._keeps_finished = former is not None and former.finished is not None
        self.progress = start_record(former, clock(), run, stage, UNITS[stage], job)

    def __enter__(self) -> ProgressRecorder:
        if not self._keeps_finished:
            self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeps_finished and isinstance(error, RunFileError):
            return
        now = self._clock()
        self.progress = self.progress_now(now)
        if error is None:
            whole, size = self.progress.total, self.progress.bytes_total
            self.progress = replace(self.progress, finished=now, done=whole, bytes_done=size)
        else:
            self.progress = replace(self.progress, failure=_failure(error))
        self._write(ends=True)

    def record(self, report: ProgressReport) -> None:
        """Note how far the stage is; written now and then."""
        if report.workers_started and self.progress.samples:  # under the same driver: the workers had to start again
            self.progress = replace(self.progress, starts=self.progress.starts + 1)
        now, figures = self._clock(), report.figures
        advance = advanced(self.progress, now, report.done, report.total, self._gpus, **figures)
        self.progress = priced(with_size(advance, report.size), self._per_hour)
        if self._clock() - self._written >= self._write_s:
            self._write()

    def progress_now(self, now: float | None = None) -> StageProgress:
        """The record as it would be if it were written now: with the time since the last report."""
        moment, known = self._clock() if now is None else now, self.progress
        return priced(advanced(known, moment, known.done, known.total, self._gpus), self._per_hour)

    def _write(self, *, ends: bool = False) -> None:
        begins = self._written == float("-inf")
        self._written, self._keeps_finished = self._clock(), False
        whole = {"format_version": FORMAT_VERSION, **asdict(self.progress)}
        try:
            if self._fence is not None:  # a driver that comes back late must not overwrite its successor's record
                self._fence.require(self._store)
            data = json.dumps(whole, sort_keys=True, allow_nan=False).encode()
            self._store.write(progress_path(self.progress.run, self.progress.stage), data)
            if begins or ends:  # not at every write: a driver that waits must not cost more
                mark_active(self._store, self.progress.run)
        except (MedfunctaError, OSError, ValueError) as error:
            print(f"telemetry: progress was not written: {getattr(error, 'what', error)}", file=sys.stderr)


def _previous_record(store: ObjectStore, run: str, stage: str) -> StageProgress | None:
    try:
        return read_progress(store, run, stage)
    except MedfunctaError:
        return None  # a damaged one is replaced: nothing depends on it


def _failure(error: BaseException) -> dict[str, str]:
    """An error as text. Of a foreign error only the class: its message may name files."""
    if isinstance(error, MedfunctaError):
        return {"kind": type(error).__name__, "what": error.what, "do": error.do}
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return {"kind": "Interrupted", "what": "the driver was stopped", "do": "resume it"}
    return {"kind": type(error).__name__, "what": f"the driver failed with {type(error).__name__}", "do": ""}


def _parse(data: bytes, where: str) -> StageProgress:
    whole = strict_json.parse_object(data, "a progress record", where, _MOVE_AWAY)
    version = whole.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"progress format_version {version!r} is unknown; this version reads {FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    return typed(StageProgress, whole, "a progress record", where, _MOVE_AWAY)
