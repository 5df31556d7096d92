"""Cancelling a job: ask it to stop, then force it."""

from __future__ import annotations

import time
from dataclasses import replace

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend, Job
from medfuncta_dist.submit.status.job_records import write_job_record
from medfuncta_dist.submit.status.job_target import JobTarget, find_job, find_target
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import Inquiry, gather_facts

GRACE_S = 150.0
"""Time for a cancelled job to save and exit before it is forced: a pod's 120 s, plus a margin for the cluster."""
POLL_S = 1.0


def cancel_job(
    text: str,
    backend: Backend,
    *,
    now: bool,
    grace_s: float = GRACE_S,
    inquiry: Inquiry | None = None,
    storage: str | None = None,
) -> tuple[RunStatus, bool]:
    """Cancel a job: ask it to stop, and force it if it is still there after ``grace_s`` seconds.

    Returns its status afterwards, and whether it was forced. A job that has ended keeps its state; with ``now``, a
    cluster that can delete it does so.
    """
    target = find_target(text, backend, storage=storage)
    if not _has_ended(target.job):
        _record_cancellation(target)
    backend.cancel(target.name, now=now)
    job = _wait_for_end(backend, target.name, grace_s)
    forced = now
    if job is not None and not job.state.is_over:
        forced = True
        backend.cancel(target.name, now=True)
        job = find_job(backend, target.name)
    return derive_status(gather_facts(replace(target, job=job), inquiry)), forced


def _has_ended(job: Job | None) -> bool:
    return job is not None and job.state.is_over


def _wait_for_end(backend: Backend, name: str, seconds: float) -> Job | None:
    """The job once it has ended, or as it is after ``seconds``; None once the cluster has deleted it."""
    deadline, job = time.monotonic() + seconds, find_job(backend, name)
    while job is not None and not job.state.is_over and time.monotonic() < deadline:
        time.sleep(POLL_S)
        job = find_job(backend, name)
    return job


def _record_cancellation(target: JobTarget) -> None:
    """Record in storage that a user cancelled the job: afterwards the cluster may not know it any more."""
    if target.run is None or target.record is None:
        return
    try:
        cancelled = replace(target.record, cancelled=time.time())
        write_job_record(ObjectStore(target.run.storage), target.run.name, cancelled)
    except MedfunctaError:
        return  # storage may be out of reach from here; the job is cancelled on the cluster all the same
