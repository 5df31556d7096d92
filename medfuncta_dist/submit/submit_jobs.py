"""Submitting a job: choose the stages, check that they can start, render the manifest, record it, send it.

The record in storage is written before the cluster hears of the job, so that a name is never used twice, even after the
cluster has deleted its jobs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import KNOWN, require_stages
from medfuncta_dist.errors import ClusterError, MedfunctaError, RunChangedError, RunFileError
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.code_commit import find_code_commit
from medfuncta_dist.submit.manifest.job_names import hash_idempotency_key, join_stages, make_rayjob_name
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.status.job_records import (
    SubmissionRecord,
    create_job_record,
    delete_job_record,
    read_job_record,
    read_job_records,
)
from medfuncta_dist.submit.status.job_target import find_job
from medfuncta_dist.submit.status.spending import (
    NOTHING_SPENT,
    Budget,
    Spent,
    compute_spent,
    forecast,
    require_budget,
)
from medfuncta_dist.telemetry.progress_record import StageProgress, read_progress

DRY_RUN_DEADLINE_S = 10.0
"""How long a dry run waits for storage, which may be out of reach from here."""
HANDOVER_TIMEOUT_S = 30.0
"""How long another submit may take between recording a job and sending it to the cluster."""
POLL_S = 0.5


class Readiness(Protocol):
    """What a submission asks about a run's outputs. ``stages/readiness.py`` implements it: this room loads no torch."""

    def require_ready(self, run: RunFile, store: ObjectStore, stages: Sequence[str]) -> None:
        """StageOrderError or RunFileError unless the first of these stages can start."""

    def is_complete(self, run: RunFile, store: ObjectStore, stage: str) -> bool:
        """Whether all outputs of a stage exist."""


@dataclass(frozen=True)
class SubmissionRequest:
    """What the user asked for. ``together``: all stages in one job, else one job per stage."""

    run: RunFile
    stages: tuple[str, ...]
    overlays: tuple[str, ...] = ()
    together: bool = False
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        require_stages(self.stages, patches=self.run.data.patches is not None)
        if sorted(self.stages, key=KNOWN.index) != list(self.stages) or len(set(self.stages)) != len(self.stages):
            raise RunFileError(
                f"the stages are out of order: {' '.join(self.stages)}",
                do=f"name each stage once, in this order: {' '.join(KNOWN)}",
            )

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """The stages of each job."""
        return [self.stages] if self.together else [(stage,) for stage in self.stages]


@dataclass(frozen=True)
class SubmissionResult:
    """The job that serves a request."""

    record: SubmissionRecord
    is_new: bool
    """Whether this call submitted it; False when it was submitted before."""
    remaining: tuple[str, ...] = ()
    """Stages of the request that are not submitted yet."""
    forecast: str = ""
    """What the run has used of its hours and money, and whether the rest suffices; empty without a limit."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.record.name


def render_manifests(
    request: SubmissionRequest, earlier: Sequence[SubmissionRecord], backend: Backend, spent: Spent = NOTHING_SPENT
) -> list[dict[str, Any]]:
    """The manifest of every job of a request, each as its next attempt. RunFileError lists everything that is wrong,
    and where the run has used its hours or its money (``spent``)."""
    base = load_base([*request.run.kubernetes.overlays, *request.overlays])
    manifests = [_render_manifest(request, stages, base, earlier, spent) for stages in request.jobs]
    for manifest in manifests:
        backend.require_valid(manifest)
    return manifests


def read_stage_progress(run: RunFile, store: ObjectStore) -> dict[str, StageProgress]:
    """How far the stages of a run are, by stage, for its limits; not read where it has none."""
    if run.kubernetes.max_hours is None and run.kubernetes.max_cost is None:
        return {}
    found = {stage: read_progress(store, run.name, stage) for stage in KNOWN}
    return {stage: progress for stage, progress in found.items() if progress is not None}


def read_earlier_jobs(run: RunFile) -> tuple[list[SubmissionRecord], Spent, str]:
    """The run's earlier submissions and what it has spent, for a dry run. If storage does not answer: none, and a note
    that says so."""
    store = ObjectStore(run.storage, deadline_s=DRY_RUN_DEADLINE_S)
    try:
        return read_job_records(store, run.name), compute_spent(run, read_stage_progress(run, store)), ""
    except MedfunctaError as error:
        note = f"storage does not answer from here ({error.what}): attempts and hours are counted from the first"
        return [], NOTHING_SPENT, note


def submit_next_job(request: SubmissionRequest, backend: Backend, readiness: Readiness) -> SubmissionResult:
    """Submit the first job of the request that is not complete. Called again, it returns the job that is active.

    StageOrderError when the inputs of its stage are not complete; RunChangedError when the idempotency key, or the
    active job, belongs to another run file.
    """
    run, store = request.run, ObjectStore(request.run.storage)
    records = read_job_records(store, run.name)
    earlier = _find_earlier_job(request, records, backend)
    if earlier is not None:
        return _make_result(request, earlier, is_new=False)
    stages = choose_due_stages(request, store, readiness)
    readiness.require_ready(run, store, stages)
    progress = read_stage_progress(run, store)
    spent = compute_spent(run, progress)
    (manifest,) = render_manifests(replace(request, stages=stages, together=True), records, backend, spent)
    record = make_submission_record(request, stages, records, backend)
    if not create_job_record(ConditionalStore.probe(store), run.name, record):
        concurrent = _wait_for_concurrent_submit(run, store, record.name, backend)
        return _make_result(request, concurrent, is_new=False)
    try:
        backend.submit(manifest)
    except ClusterError:
        delete_job_record(store, run.name, record.name)  # the cluster refused it: there is no such job
        raise
    result = _make_result(request, record, is_new=True)
    return replace(result, forecast=forecast(Budget.of(run, stages), spent, stages, progress))


def choose_due_stages(request: SubmissionRequest, store: ObjectStore, readiness: Readiness) -> tuple[str, ...]:
    """The stages of the first job whose outputs are not complete; of the last job, when all are."""
    for stages in request.jobs[:-1]:
        if not readiness.is_complete(request.run, store, stages[-1]):
            return stages
    return request.jobs[-1]


def make_submission_record(
    request: SubmissionRequest, stages: tuple[str, ...], earlier: Sequence[SubmissionRecord], backend: Backend
) -> SubmissionRecord:
    """The record of the next attempt at some stages of a request."""
    attempt, key = _next_attempt(stages, earlier), request.idempotency_key
    return SubmissionRecord(
        name=make_rayjob_name(request.run.name, join_stages(stages), attempt),
        stages=stages,
        attempt=attempt,
        backend=backend.name,
        time=time.time(),
        run_file_digest=request.run.results_digest,
        commit=find_code_commit(),
        idempotency_key=None if key is None else hash_idempotency_key(key),
        overlays=request.overlays,
    )


def name_taken_error(name: str) -> ClusterError:
    """The error when another submit recorded a job of this name first."""
    return ClusterError(
        "another submit of this run took this job's name a moment ago",
        where=name,
        do="run the same command again: it will find the other job",
    )


def _find_earlier_job(
    request: SubmissionRequest, records: Sequence[SubmissionRecord], backend: Backend
) -> SubmissionRecord | None:
    """The job that serves this request already: it has the same key, or it is active on one of the same stages."""
    key = None if request.idempotency_key is None else hash_idempotency_key(request.idempotency_key)
    for record in reversed(records):
        has_same_key = key is not None and record.idempotency_key == key
        if has_same_key or (set(record.stages) & set(request.stages) and _is_active(record, backend)):
            _require_same_run_file(record, request.run)
            return record
    return None


def _wait_for_concurrent_submit(run: RunFile, store: ObjectStore, name: str, backend: Backend) -> SubmissionRecord:
    """The job of a concurrent submit that recorded this name first, once the cluster has it."""
    deadline = time.monotonic() + HANDOVER_TIMEOUT_S
    while (record := read_job_record(store, run.name, name)) is not None:
        _require_same_run_file(record, run)
        if find_job(backend, name) is not None:
            return record
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    raise name_taken_error(name)


def _is_active(record: SubmissionRecord, backend: Backend) -> bool:
    job = find_job(backend, record.name)
    return job is not None and not job.state.is_over


def _require_same_run_file(record: SubmissionRecord, run: RunFile) -> None:
    if record.run_file_digest != run.results_digest:
        raise RunChangedError(
            f"{record.name} was submitted with another run file",
            do=f"wait until it ends, or run `medfuncta-dist cancel {record.name}`; if you gave an idempotency key, use "
            "a new one for a changed run file",
        )


def _render_manifest(
    request: SubmissionRequest,
    stages: tuple[str, ...],
    base: dict[str, Any],
    earlier: Sequence[SubmissionRecord],
    spent: Spent,
) -> dict[str, Any]:
    attempt = _next_attempt(stages, earlier)
    name = make_rayjob_name(request.run.name, join_stages(stages), attempt)
    budget = Budget.of(request.run, stages)
    require_budget(budget, spent, name)
    key, limit = request.idempotency_key, budget.queue_seconds(spent)
    return render(Submission(request.run, stages, attempt, name, find_code_commit(), key, limit), base)


def _next_attempt(stages: tuple[str, ...], earlier: Sequence[SubmissionRecord]) -> int:
    return 1 + max((record.attempt for record in earlier if record.stages == stages), default=0)


def _make_result(request: SubmissionRequest, record: SubmissionRecord, *, is_new: bool) -> SubmissionResult:
    last = KNOWN.index(record.stages[-1])
    remaining = tuple(stage for stage in request.stages if KNOWN.index(stage) > last)
    return SubmissionResult(record, is_new, remaining)
