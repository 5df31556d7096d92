"""Watching a job until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from medfuncta_dist.errors import JobMissingError
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import gather_facts

STORAGE_POLL_S = 5.0
"""Between reads of storage while nothing changes on the cluster."""

StatusCallback = Callable[[RunStatus], None]


def watch_job(
    target: JobTarget, backend: Backend, show_status: StatusCallback, every_s: float = STORAGE_POLL_S
) -> RunStatus:
    """Report the status after every change of a job, until it has ended or is deleted. Returns the last status."""
    for current in _follow_target(target, backend, every_s):
        status = derive_status(gather_facts(current))
        show_status(status)
        if status.state.is_over:
            return status
    return status


def _follow_target(target: JobTarget, backend: Backend, every_s: float) -> Iterator[JobTarget]:
    """The target after each change of its job; last, without the job, if the cluster deletes it."""
    try:
        for job in backend.watch_job(target.name, every_s):
            yield replace(target, job=job)
    except JobMissingError:
        yield replace(target, job=None)
