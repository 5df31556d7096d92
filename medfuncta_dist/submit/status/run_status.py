"""The status of a run, from what the cluster and storage know. Pure.

The cluster knows whether a job is waiting, running or over; storage knows what was done, and why a driver ended.
Neither is enough: the cluster may have been deleted a week ago or suspended by Kueue, and storage alone cannot tell a
waiting job from a dead one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medfuncta_dist.submit.backends.backend import Job, JobState
from medfuncta_dist.submit.status.job_records import SubmissionRecord, TerminalRecord
from medfuncta_dist.submit.status.run_cost import HourlyCost
from medfuncta_dist.submit.status.time_left import estimate_seconds_left
from medfuncta_dist.telemetry.progress_record import StageProgress

WAITING = (JobState.QUEUED, JobState.STARTING, JobState.RETRYING)
"""States in which the cluster's message says why the job is not running."""
DRIVER_ALIVE_S = 180.0
"""A driver that progress something this lately is alive, whatever the cluster says: one task's length, and some."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a job. ``job`` is None if the cluster does not have it; ``record``, if storage does not."""

    now: float
    name: str
    """The job's name; the run's, if nothing was submitted."""
    run: str
    stages: Sequence[str]
    job: Job | None = None
    record: SubmissionRecord | None = None
    progress: Mapping[str, StageProgress] = field(default_factory=dict)
    terminal: TerminalRecord | None = None
    rates: HourlyCost = field(default_factory=HourlyCost)


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
    silent_s: float | None = None
    """Seconds since the driver last recorded progress."""
    failure: str = ""
    """Why the last failure happened, in one sentence."""
    next: str = ""
    """What to do now; empty if nothing but waiting."""
    exit_code: int = 0
    """The driver's exit code, if the job failed for good; else 0."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, under the keys of ``status --json``."""
        fields = {name: value for name, value in asdict(self).items() if name != "exit_code"}
        return {**fields, "state": str(self.state), "later": list(self.later), "figures": dict(self.figures)}


def derive_status(facts: RunFacts) -> RunStatus:
    """The status that the facts amount to."""
    stage = find_current_stage(facts)
    progress = facts.progress.get(stage)
    state = _derive_state(facts, progress)
    failure, do = _explain_failure(facts, state, progress)
    gpu_s = sum(p.gpu_s for p in _list_job_progress(facts))
    left = _estimate_time_left(state, progress)
    return RunStatus(
        name=facts.name,
        run=facts.run,
        state=state,
        stage=stage,
        eta_s=left,
        gpu_hours=round(gpu_s / 3600, 4),
        spent=facts.rates.cost(sum(p.held_s for p in _list_job_progress(facts))),
        remaining=None if left is None else facts.rates.cost(left),
        later=tuple(facts.stages[facts.stages.index(stage) + 1 :]) if stage else (),
        currency=facts.rates.currency,
        restarts=_count_restarts(facts, progress),
        failure=failure,
        next=do,
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
    if progress is not None and progress.failure is None and facts.now - progress.updated < DRIVER_ALIVE_S:
        return JobState.RUNNING
    if facts.record is not None and facts.record.cancelled is not None:
        return JobState.CANCELLED
    if _waits_in_workflow(facts):
        return JobState.QUEUED
    return JobState.LOST if facts.record is not None or progress is not None else JobState.QUEUED


def _waits_in_workflow(facts: RunFacts) -> bool:
    """Whether a workflow has not started this job yet: the cluster does not have it, and it recorded no progress."""
    begun = any(progress.submission == facts.name for progress in facts.progress.values())
    return facts.job is None and facts.record is not None and facts.record.workflow is not None and not begun


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
        "silent_s": round(max(0.0, now - progress.updated), 1),
    }


def _to_int(number: float | None) -> int | None:
    return None if number is None else int(number)


def _explain_failure(facts: RunFacts, state: JobState, progress: StageProgress | None) -> tuple[str, str]:
    """The failure, and what to do next: from the terminal record, else the driver's, else the cluster's message."""
    resume = f"medfuncta-dist resume {facts.name}"
    if facts.terminal is not None and state is not JobState.DONE:
        return _to_sentence(facts.terminal.what), facts.terminal.do
    cause = progress.failure if progress is not None else None
    reason = _to_sentence(cause["what"] if cause else facts.job.message if facts.job is not None else "")
    if state is JobState.QUEUED and facts.record is not None and _waits_in_workflow(facts):
        workflow = facts.record.workflow
        return (
            f"It waits for its turn in the workflow {workflow}.",
            f"if `kubectl get workflow {workflow}` fails: {resume}",
        )
    if state is JobState.LOST:
        return reason or "The job is not on the cluster, and its driver never reported an end.", resume
    if state is JobState.FAILED:
        advice = cause["do"] if cause else ""
        return reason or "The job failed without giving a reason.", f"{advice}; then {resume}" if advice else resume
    if state is JobState.CANCELLED:
        return "", f"{resume} (it continues where it stopped)"
    return (reason if cause or state in WAITING else ""), ""


def _to_sentence(text: str) -> str:
    """The first line of a text, as a sentence."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if not line:
        return ""
    return line[0].upper() + line[1:].rstrip(".:") + "."
