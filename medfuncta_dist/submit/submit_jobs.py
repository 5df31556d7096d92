"""Submitting: what is due, whether it may start, the manifest, the record in storage, and then the cluster.

The record comes first: a name that was once given is never given again, even when the cluster forgets its jobs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import STAGES, require_stages
from medfuncta_dist.errors import ClusterError, MedfunctaError, RunChangedError, RunFileError
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.code_commit import code_commit
from medfuncta_dist.submit.manifest.job_names import key_label, rayjob_name, stage_name
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.status.job_records import Submitted, create_job, delete_job, read_job, read_jobs
from medfuncta_dist.submit.status.job_target import job_or_none

GLANCE_S = 10.0
"""How long a dry run waits for a storage that may not answer from here."""
HANDOVER_S = 30.0
"""What another submit gets to hand a job to the cluster, after it took the name."""
POLL_S = 0.5


class Readiness(Protocol):
    """What a submission asks of a run's outputs. ``stages/readiness.py`` answers it; this room loads no torch."""

    def require_ready(self, run: RunFile, store: ObjectStore, stages: Sequence[str]) -> None:
        """StageOrderError, RunFileError unless the first of these stages can start."""

    def is_complete(self, run: RunFile, store: ObjectStore, stage: str) -> bool:
        """Whether all outputs of a stage are there."""


@dataclass(frozen=True)
class Request:
    """What was asked for. ``together``: all stages in one job; else one job a stage."""

    run: RunFile
    stages: tuple[str, ...]
    overlays: tuple[str, ...] = ()
    together: bool = False
    key: str | None = None
    """Of idempotency."""

    def __post_init__(self) -> None:
        require_stages(self.stages)
        if sorted(self.stages, key=STAGES.index) != list(self.stages) or len(set(self.stages)) != len(self.stages):
            raise RunFileError("stages out of order", do=f"name them in this order, once: {' '.join(STAGES)}")

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """The stages of each job."""
        return [self.stages] if self.together else [(stage,) for stage in self.stages]


@dataclass(frozen=True)
class Sent:
    """The job that a request has led to, and whether this call made it. ``left``: stages that wait for it."""

    record: Submitted
    new: bool
    left: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the job."""
        return self.record.name


def manifests(request: Request, recorded: Sequence[Submitted], backend: Backend) -> list[dict[str, Any]]:
    """The manifest of every job of a request, each as its next attempt. RunFileError names all that is wrong."""
    base = load_base([*request.run.kubernetes.overlays, *request.overlays])
    made = [_manifest(request, stages, base, recorded) for stages in request.jobs]
    for manifest in made:
        backend.require_valid(manifest)
    return made


def glance(run: RunFile) -> tuple[list[Submitted], str]:
    """Earlier submissions, for a dry run; without an answer from storage, none, and a remark that says so."""
    try:
        return read_jobs(ObjectStore(run.storage, deadline_s=GLANCE_S), run.name), ""
    except MedfunctaError as error:
        return [], f"storage does not answer from here ({error.what}): attempts are counted from 1"


def submit(request: Request, backend: Backend, readiness: Readiness) -> Sent:
    """Submit the first job of the request that is due. Asked again, it returns the one that is at work already.

    StageOrderError before what its stage reads from is complete; RunChangedError when the idempotency key, or a job
    that is at work, stands for another run file.
    """
    run, store = request.run, ObjectStore(request.run.storage)
    recorded = read_jobs(store, run.name)
    earlier = _earlier(request, recorded, backend)
    if earlier is not None:
        return _sent(request, earlier, new=False)
    stages = due(request, store, readiness)
    readiness.require_ready(run, store, stages)
    (manifest,) = manifests(replace(request, stages=stages, together=True), recorded, backend)
    record = record_of(request, stages, recorded, backend)
    if not create_job(ConditionalStore.probe(store), run.name, record):
        return _sent(request, _winner(run, store, record.name, backend), new=False)
    try:
        backend.submit(manifest)
    except ClusterError:
        delete_job(store, run.name, record.name)  # refused: there is no such job to remember
        raise
    return _sent(request, record, new=True)


def due(request: Request, store: ObjectStore, readiness: Readiness) -> tuple[str, ...]:
    """The stages of the first job whose outputs are not complete; of the last one, when all are."""
    for stages in request.jobs[:-1]:
        if not readiness.is_complete(request.run, store, stages[-1]):
            return stages
    return request.jobs[-1]


def _earlier(request: Request, recorded: Sequence[Submitted], backend: Backend) -> Submitted | None:
    """The job that this request has led to before: by its key, or because it is at work on one of its stages."""
    for submitted in reversed(recorded):
        same_key = request.key is not None and submitted.idempotency_key == key_label(request.key)
        if same_key or (set(submitted.stages) & set(request.stages) and _at_work(submitted, backend)):
            _require_same(submitted, request.run)
            return submitted
    return None


def _winner(run: RunFile, store: ObjectStore, name: str, backend: Backend) -> Submitted:
    """The job of a submit at the same time that was first to take its name, once the cluster has it."""
    deadline = time.monotonic() + HANDOVER_S
    while (record := read_job(store, run.name, name)) is not None:
        _require_same(record, run)
        if job_or_none(backend, name) is not None:
            return record
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    raise taken(name)


def taken(name: str) -> ClusterError:
    """The error of a submit that lost a name to another one at the same time."""
    do = "run the same command again: it sees what the other one did"
    return ClusterError("another submit of this run took this job's name a moment ago", where=name, do=do)


def _at_work(submitted: Submitted, backend: Backend) -> bool:
    job = job_or_none(backend, submitted.name)
    return job is not None and not job.state.over


def _require_same(submitted: Submitted, run: RunFile) -> None:
    if submitted.run_file_digest != run.results_digest:
        raise RunChangedError(
            f"{submitted.name} was submitted with another run file",
            do=f"wait for it, or `medfuncta-dist cancel {submitted.name}`; a new request needs a new idempotency key",
        )


def _manifest(
    request: Request, stages: tuple[str, ...], base: dict[str, Any], recorded: Sequence[Submitted]
) -> dict[str, Any]:
    attempt = _attempt(stages, recorded)
    name = rayjob_name(request.run.name, stage_name(stages), attempt)
    return render(Submission(request.run, stages, attempt, name, code_commit(), request.key), base)


def record_of(request: Request, stages: tuple[str, ...], recorded: Sequence[Submitted], backend: Backend) -> Submitted:
    """What storage remembers of the next attempt at some stages of a request."""
    attempt = _attempt(stages, recorded)
    return Submitted(
        name=rayjob_name(request.run.name, stage_name(stages), attempt),
        stages=stages,
        attempt=attempt,
        backend=backend.name,
        time=time.time(),
        run_file_digest=request.run.results_digest,
        commit=code_commit(),
        idempotency_key=key_label(request.key) if request.key is not None else None,
        overlays=request.overlays,
    )


def _attempt(stages: tuple[str, ...], recorded: Sequence[Submitted]) -> int:
    return 1 + max((submitted.attempt for submitted in recorded if submitted.stages == stages), default=0)


def _sent(request: Request, submitted: Submitted, *, new: bool) -> Sent:
    after = STAGES.index(submitted.stages[-1])
    left = tuple(stage for stage in request.stages if STAGES.index(stage) > after)
    return Sent(submitted, new, left)
