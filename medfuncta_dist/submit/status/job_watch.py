"""Watching a job until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from medfuncta_dist.errors import JobMissingError
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import Inquiry, gather_facts

STORAGE_POLL_S = 5.0
"""Between reads of storage while nothing changes on the cluster."""

StatusCallback = Callable[[RunStatus], None]


def watch_job(
    target: JobTarget,
    backend: Backend,
    show_status: StatusCallback,
    every_s: float = STORAGE_POLL_S,
    inquiry: Inquiry | None = None,
) -> RunStatus:
    """Report the status after every change of a job, until it has ended or is deleted. Returns the last status."""
    for status in follow_job(target, backend, every_s, inquiry):
        show_status(status)
    return status


def follow_job(
    target: JobTarget, backend: Backend, every_s: float = STORAGE_POLL_S, inquiry: Inquiry | None = None
) -> Iterator[RunStatus]:
    """The status now, after every change of a job, and every ``every_s`` seconds, until it has ended or is deleted."""
    for current in _follow_target(target, backend, every_s):
        status = derive_status(gather_facts(current, inquiry))
        yield status
        if status.state.is_over:
            return


def _follow_target(target: JobTarget, backend: Backend, every_s: float) -> Iterator[JobTarget]:
    """The target after each change of its job; last, without the job, if the cluster deletes it.

    A run without a submitted job is followed in storage alone, where a command's driver records its progress.
    """
    if target.job is None and target.record is None:
        yield target
        while True:
            time.sleep(every_s)
            yield target
    try:
        for job in backend.watch_job(target.name, every_s):
            yield replace(target, job=job)
    except JobMissingError:
        yield replace(target, job=None)
