"""The status of a run, from what the cluster and storage know. Pure.

The cluster knows whether a job is waiting, running or over; storage knows what was done, and why a driver ended.
Neither is enough: the cluster may have been deleted a week ago or suspended by Kueue, and storage alone cannot tell a
waiting job from a dead one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.status.next_command import Place
from medfuncta_dist.submit.status.run_facts import RunFacts
from medfuncta_dist.submit.status.status_advice import advise, find_place, is_interruption
from medfuncta_dist.submit.status.time_left import estimate_seconds_left
from medfuncta_dist.telemetry.progress_record import StageProgress, priced, rate

DRIVER_ALIVE_S = 180.0
"""A driver that progress something this lately is alive, whatever the cluster says: one task's length, and some."""


@dataclass(frozen=True)
class RunStatus:
    """The status of a run. Costs are None without prices in the run file; ``scans_done``, if scans are not counted."""

    name: str
    run: str
    state: JobState
    stage: str
    """The stage that is running, or in which it ended."""
    done: int = 0
    total: int = 0
    unit: str = ""
    progress: float = 0.0
    """Of the stage, from 0 to 1."""
    step: int | None = None
    scans_done: int | None = None
    eta_s: float | None = None
    """Seconds to the end of the stage."""
    gpu_hours: float = 0.0
    spent: float | None = None
    remaining: float | None = None
    """Cost until the end of the stage."""
    later: tuple[str, ...] = ()
    """The job's stages after this one, which neither ``eta_s`` nor ``remaining`` includes."""
    currency: str = ""
    restarts: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    bytes_done: int = 0
    bytes_total: int = 0
    """Of the archive; 0 for stages that do not count bytes."""
    bytes_per_s: float | None = None
    """Over up to ten minutes; None while it is not known."""
    silent_s: float | None = None
    """Seconds since the driver last recorded progress."""
    waiting: str = ""
    """Why the job, or a pod of it, is not running, in one sentence."""
    failure: str = ""
    """Why the last failure happened, in one sentence."""
    next: str = ""
    """What to do now; empty if nothing but waiting."""
    command: str = ""
    """The command in ``next`` alone, as it can be run; empty if there is none."""
    unread: str = ""
    """What the cluster did not let this command read; empty if it read all that it asked for."""
    place: Place = Place.NOWHERE
    """Where the run's last driver ran, or its job was sent."""
    exit_code: int = 0
    """The driver's exit code, if the job failed for good; else 0."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, under the keys of ``status --json``."""
        fields = {name: value for name, value in asdict(self).items() if name != "exit_code"}
        return {
            **fields,
            "state": str(self.state),
            "place": str(self.place),
            "later": list(self.later),
            "figures": dict(self.figures),
        }


def derive_status(facts: RunFacts) -> RunStatus:
    """The status that the facts amount to."""
    stage = find_current_stage(facts)
    progress = facts.progress.get(stage)
    state = _derive_state(facts, progress)
    place = find_place(facts)
    advice = advise(facts, state, progress, place, stage)
    gpu_s = sum(p.gpu_s for p in _list_job_progress(facts))
    left = _estimate_time_left(state, progress)
    return RunStatus(
        name=facts.name,
        run=facts.run,
        state=state,
        stage=stage,
        eta_s=left,
        gpu_hours=round(gpu_s / 3600, 4),
        spent=_compute_spent(facts),
        remaining=None if left is None else facts.rates.cost(left),
        later=tuple(facts.stages[facts.stages.index(stage) + 1 :]) if stage else (),
        currency=facts.rates.currency,
        restarts=_count_restarts(facts, progress),
        waiting=advice.waiting,
        failure=advice.failure,
        next=advice.text,
        command=advice.command,
        unread=facts.explanation.unread,
        place=place,
        exit_code=facts.terminal.code if facts.terminal is not None and state is JobState.FAILED else 0,
        **({} if progress is None else _progress_fields(progress, facts.now)),
    )


def _estimate_time_left(state: JobState, progress: StageProgress | None) -> float | None:
    """Seconds to the end of the stage; None unless the job is running or done."""
    if state is JobState.DONE:
        return 0.0
    return estimate_seconds_left(progress) if state is JobState.RUNNING and progress is not None else None


def find_current_stage(facts: RunFacts) -> str:
    """The first stage of the job that is not finished; the last one, if all are."""
    for stage in facts.stages:
        if not _is_finished(facts, stage):
            return stage
    return facts.stages[-1] if facts.stages else ""


def _list_job_progress(facts: RunFacts) -> list[StageProgress]:
    return [facts.progress[stage] for stage in facts.stages if stage in facts.progress]


def _compute_spent(facts: RunFacts) -> float | None:
    """What the job's stages cost so far, at the prices of their time, to the cent; None without prices."""
    per_hour = facts.rates.per_hour
    return None if per_hour is None else round(sum(priced(p, per_hour).cost for p in _list_job_progress(facts)), 2)


def _is_finished(facts: RunFacts, stage: str) -> bool:
    progress = facts.progress.get(stage)
    if progress is None or progress.finished is None:
        return False
    # When a stage is run again, an earlier job finished it; that does not count for this job.
    return facts.record is None or progress.finished >= facts.record.time


def _derive_state(facts: RunFacts, progress: StageProgress | None) -> JobState:
    if facts.job is not None:
        return facts.job.state
    if facts.terminal is not None:
        return JobState.FAILED
    if facts.stages and all(_is_finished(facts, stage) for stage in facts.stages):
        return JobState.DONE
    # A stage that has finished, before this job began, has no driver that could be alive.
    going_on = progress is not None and progress.failure is None and progress.finished is None
    if progress is not None and going_on and facts.now - progress.updated < DRIVER_ALIVE_S:
        return JobState.RUNNING
    if facts.record is None and progress is not None and progress.failure is not None:
        return JobState.CANCELLED if is_interruption(progress.failure) else JobState.FAILED
    if facts.record is not None and facts.record.cancelled is not None:
        return JobState.CANCELLED
    if facts.waits_in_workflow:
        return JobState.QUEUED
    return JobState.LOST if facts.record is not None or progress is not None else JobState.QUEUED


def _count_restarts(facts: RunFacts, progress: StageProgress | None) -> int:
    starts = progress.starts - 1 if progress is not None else 0
    return max(starts, facts.job.restarts if facts.job is not None else 0)


def _progress_fields(progress: StageProgress, now: float) -> dict[str, Any]:
    return {
        "done": progress.done,
        "total": progress.total,
        "unit": progress.unit,
        "progress": round(progress.done / progress.total, 4)
        if progress.total
        else float(progress.finished is not None),
        "step": progress.done if progress.unit == "steps" else None,
        "scans_done": progress.done if progress.unit == "scans" else _to_int(progress.notes.get("packed")),
        "figures": progress.notes,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "bytes_per_s": None if (per_s := rate(progress.byte_samples)) is None else round(per_s, 1),
        "silent_s": round(max(0.0, now - progress.updated), 1),
    }


def _to_int(number: float | None) -> int | None:
    return None if number is None else int(number)
