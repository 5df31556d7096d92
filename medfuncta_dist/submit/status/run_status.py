"""How a run is: the cluster's truth and storage's, joined. Pure.

The cluster knows whether a job waits, runs or ended; storage knows what was done, and why a driver ended. Neither is
enough: a cluster may be gone, taken back by Kueue or deleted a week ago, and storage can not tell waiting from dead.
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
"""States in which the cluster's own words say why it is not running."""
DRIVER_ALIVE_S = 180.0
"""A driver that told something this lately is alive, whatever the cluster says: one task's length, and some."""


@dataclass(frozen=True)
class RunFacts:
    """All that is known. ``job`` is None where the cluster does not have it; ``submitted`` where storage does not."""

    now: float
    name: str
    """Of the job; of the run, where nothing was submitted."""
    run: str
    stages: Sequence[str]
    job: Job | None = None
    submitted: SubmissionRecord | None = None
    progress: Mapping[str, StageProgress] = field(default_factory=dict)
    terminal: TerminalRecord | None = None
    rates: HourlyCost = field(default_factory=HourlyCost)


@dataclass(frozen=True)
class RunStatus:
    """A run at a moment. Money is None without prices in the run file; ``scans_done`` where scans are not counted."""

    name: str
    run: str
    state: JobState
    stage: str
    """The stage that it is in, or ended in."""
    done: int = 0
    total: int = 0
    unit: str = ""
    progress: float = 0.0
    """0..1, of the stage."""
    step: int | None = None
    scans_done: int | None = None
    eta_s: float | None = None
    """To the end of the stage."""
    gpu_hours: float = 0.0
    spent: float | None = None
    remaining: float | None = None
    """To come until the end of the stage."""
    later: tuple[str, ...] = ()
    """Stages of the job that come after this one: neither ``eta_s`` nor ``remaining`` counts them."""
    currency: str = ""
    restarts: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    silent_s: float | None = None
    """Seconds since the driver's last word."""
    failure: str = ""
    """Why the last failure happened, in one sentence."""
    next: str = ""
    """What to do now; empty where waiting is right."""
    exit_code: int = 0
    """Of its driver, where it ended for good; 0 else."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        whole = {name: value for name, value in asdict(self).items() if name != "exit_code"}
        return {**whole, "state": str(self.state), "later": list(self.later), "figures": dict(self.figures)}


def derive_status(facts: RunFacts) -> RunStatus:
    """Join the facts."""
    stage = find_current_stage(facts)
    told = facts.progress.get(stage)
    state = _derive_state(facts, told)
    failure, do = _explain_failure(facts, state, told)
    hours = sum(p.gpu_s for p in _list_job_progress(facts)) / 3600
    left = estimate_seconds_left(told) if told is not None else None
    left = left if state is JobState.RUNNING else (0.0 if state is JobState.DONE else None)
    return RunStatus(
        name=facts.name,
        run=facts.run,
        state=state,
        stage=stage,
        eta_s=left,
        gpu_hours=round(hours, 4),
        spent=facts.rates.cost(sum(p.held_s for p in _list_job_progress(facts))),
        remaining=None if left is None else facts.rates.cost(left),
        later=tuple(facts.stages[facts.stages.index(stage) + 1 :]) if stage else (),
        currency=facts.rates.currency,
        restarts=_count_restarts(facts, told),
        failure=failure,
        next=do,
        exit_code=facts.terminal.code if facts.terminal is not None and state is JobState.FAILED else 0,
        **({} if told is None else _progress_fields(told, facts.now)),
    )


def find_current_stage(facts: RunFacts) -> str:
    """The first stage of the job that is not finished; its last one when all are."""
    for stage in facts.stages:
        if not _is_finished(facts, stage):
            return stage
    return facts.stages[-1] if facts.stages else ""


def _list_job_progress(facts: RunFacts) -> list[StageProgress]:
    return [facts.progress[stage] for stage in facts.stages if stage in facts.progress]


def _is_finished(facts: RunFacts, stage: str) -> bool:
    told = facts.progress.get(stage)
    if told is None or told.finished is None:
        return False
    # A stage that is run once more was finished before: by an earlier job, which says nothing of this one.
    return facts.submitted is None or told.finished >= facts.submitted.time


def _derive_state(facts: RunFacts, told: StageProgress | None) -> JobState:
    if facts.job is not None:
        return facts.job.state
    if facts.terminal is not None:
        return JobState.FAILED
    if facts.stages and all(_is_finished(facts, stage) for stage in facts.stages):
        return JobState.DONE
    if told is not None and told.failure is None and facts.now - told.updated < DRIVER_ALIVE_S:
        return JobState.RUNNING
    if facts.submitted is not None and facts.submitted.cancelled is not None:
        return JobState.CANCELLED
    if _waits_for_argo(facts):
        return JobState.QUEUED
    return JobState.LOST if facts.submitted is not None or told is not None else JobState.QUEUED


def _waits_for_argo(facts: RunFacts) -> bool:
    """Whether a job of a workflow that the cluster does not have never told anything: its turn has not come."""
    begun = any(told.submission == facts.name for told in facts.progress.values())
    return facts.job is None and facts.submitted is not None and facts.submitted.workflow is not None and not begun


def _count_restarts(facts: RunFacts, told: StageProgress | None) -> int:
    starts = told.starts - 1 if told is not None else 0
    return max(starts, facts.job.restarts if facts.job is not None else 0)


def _progress_fields(told: StageProgress, now: float) -> dict[str, Any]:
    return {
        "done": told.done,
        "total": told.total,
        "unit": told.unit,
        "progress": round(told.done / told.total, 4) if told.total else float(told.finished is not None),
        "step": told.done if told.unit == "steps" else None,
        "scans_done": told.done if told.unit == "scans" else _to_int(told.notes.get("packed")),
        "figures": told.notes,
        "silent_s": round(max(0.0, now - told.updated), 1),
    }


def _to_int(number: float | None) -> int | None:
    return None if number is None else int(number)


def _explain_failure(facts: RunFacts, state: JobState, told: StageProgress | None) -> tuple[str, str]:
    """The reason and the next action, from whoever knows best: the terminal record, the driver, the cluster."""
    resume = f"medfuncta-dist resume {facts.name}"
    if facts.terminal is not None and state is not JobState.DONE:
        return _to_sentence(facts.terminal.what), facts.terminal.do
    cause = told.failure if told is not None else None
    words = _to_sentence(cause["what"] if cause else facts.job.message if facts.job is not None else "")
    if state is JobState.QUEUED and facts.submitted is not None and _waits_for_argo(facts):
        chain = facts.submitted.workflow
        return f"It waits for its turn in the workflow {chain}.", f"if `kubectl get workflow {chain}` fails: {resume}"
    if state is JobState.LOST:
        return words or "The job is not on the cluster, and it never said that it ended.", resume
    if state is JobState.FAILED:
        advice = cause["do"] if cause else ""
        return words or "The job failed without a word.", f"{advice}; then {resume}" if advice else resume
    if state is JobState.CANCELLED:
        return "", f"{resume} (it goes on where it stopped)"
    return (words if cause or state in WAITING else ""), ""


def _to_sentence(text: str) -> str:
    """The first line of a text as one sentence."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if not line:
        return ""
    return line[0].upper() + line[1:].rstrip(".:") + "."
