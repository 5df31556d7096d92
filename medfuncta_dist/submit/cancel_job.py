"""A job ended from outside: asked first, then made to."""

from __future__ import annotations

import time
from dataclasses import replace

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.status.job_records import write_job_record
from medfuncta_dist.submit.status.job_target import JobTarget, find_job, find_target
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import gather_facts

GRACE_S = 150.0
"""What a cancelled job gets to save and leave, before it is ended: a pod's 120 s, and some for the cluster."""
POLL_S = 1.0


def cancel_job(text: str, backend: Backend, *, now: bool, grace_s: float = GRACE_S) -> tuple[RunStatus, bool]:
    """End a job: gracefully, then hard if it is not gone after ``grace_s``. How it is then, and whether it was hard.

    A job that is over stays as it ended; with ``now`` a cluster that keeps it forgets it.
    """
    target = find_target(text, backend)
    if target.job is None or not target.job.state.over:
        _record_cancellation(target)
    backend.cancel(target.name, now=now)
    deadline, job = time.monotonic() + grace_s, find_job(backend, target.name)
    while job is not None and not job.state.over and time.monotonic() < deadline:
        time.sleep(POLL_S)
        job = find_job(backend, target.name)
    hard = now
    if job is not None and not job.state.over:
        hard = True
        backend.cancel(target.name, now=True)
        job = find_job(backend, target.name)
    return derive_status(gather_facts(replace(target, job=job))), hard


def _record_cancellation(target: JobTarget) -> None:
    """That somebody asked for its end: afterwards the cluster may know nothing."""
    if target.run is None or target.submitted is None:
        return
    try:
        asked = replace(target.submitted, cancelled=time.time())
        write_job_record(ObjectStore(target.run.storage), target.run.name, asked)
    except MedfunctaError:
        return  # the cluster is what must hear of it
