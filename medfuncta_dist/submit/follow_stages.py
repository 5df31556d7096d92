"""Submitting stage after stage, and once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend, JobState
from medfuncta_dist.submit.status.job_target import JobTarget, find_job, find_target
from medfuncta_dist.submit.status.job_watch import StatusCallback, watch_job
from medfuncta_dist.submit.status.run_status import RunStatus
from medfuncta_dist.submit.submit_jobs import Readiness, SubmissionRequest, SubmissionResult, submit_next_job


def submit_and_follow(
    request: SubmissionRequest, backend: Backend, show: StatusCallback, say: Callable[[str], None], readiness: Readiness
) -> tuple[SubmissionResult, RunStatus]:
    """Submit one job after the other, each when the one before is done; the last one, and how it ended.

    Stages whose outputs are complete are passed over, except packing: only it can tell that nothing is new.
    """
    store, jobs = ObjectStore(request.run.storage), request.jobs
    for stages in jobs:
        if stages != jobs[-1] and stages[-1] != "pack" and readiness.is_complete(request.run, store, stages[-1]):
            say(f"{' '.join(stages)}: complete already")
            continue
        key = None if request.key is None else f"{request.key}/{' '.join(stages)}"
        sent = submit_next_job(replace(request, stages=stages, together=True, key=key), backend, readiness)
        say(f"{sent.name}: {'submitted' if sent.new else 'is there already'}")
        job = find_job(backend, sent.name)
        ended = watch_job(JobTarget(request.run.name, request.run, job, sent.record), backend, show)
        if ended.state is not JobState.DONE:
            break
    return sent, ended


def resume_job(
    text: str, overrides: Sequence[str], overlays: Sequence[str], backend: Backend, readiness: Readiness
) -> SubmissionResult:
    """Submit a job once more: the same run and stages, as a new attempt; the one at work, if there is one. Overlays are
    those that it had, unless others are given.

    Of a job that the cluster has forgotten, the run file tells. RunFileError when nothing was ever submitted.
    """
    target = find_target(text, backend, overrides)
    if target.run is None or not target.stages:
        raise RunFileError(
            f"it is not known what {text!r} was", do="submit its run file: `medfuncta-dist submit RUN.yaml STAGE...`"
        )
    had = target.submitted.overlays if target.submitted is not None else ()
    return submit_next_job(
        SubmissionRequest(target.run, target.stages, tuple(overlays) or had, together=True), backend, readiness
    )
