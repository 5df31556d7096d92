"""A job watched to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from medfuncta_dist.errors import JobMissingError
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import gather_facts

STORAGE_POLL_S = 5.0
"""Between looks at storage while nothing happens on the cluster."""

StatusCallback = Callable[[RunStatus], None]


def watch_job(target: JobTarget, backend: Backend, show: StatusCallback, every_s: float = STORAGE_POLL_S) -> RunStatus:
    """Show every change of a job until it is over; returns how it ended. A deleted job ends it, too."""
    for seen in _follow_target(target, backend, every_s):
        now = derive_status(gather_facts(seen))
        show(now)
        if now.state.over:
            return now
    return now


def _follow_target(target: JobTarget, backend: Backend, every_s: float) -> Iterator[JobTarget]:
    """The target again after each change of its job; once more without it when the cluster has it no longer."""
    try:
        for job in backend.changes(target.name, every_s):
            yield replace(target, job=job)
    except JobMissingError:
        yield replace(target, job=None)
