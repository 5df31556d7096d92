"""A job watched to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from medfuncta_dist.errors import JobMissingError
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.status.job_target import Target
from medfuncta_dist.submit.status.run_status import Status, status
from medfuncta_dist.submit.status.status_facts import facts

LOOK_S = 5.0
"""Between looks at storage while nothing happens on the cluster."""

Show = Callable[[Status], None]


def watch(target: Target, backend: Backend, show: Show, every_s: float = LOOK_S) -> Status:
    """Show every change of a job until it is over; returns how it ended. A deleted job ends it, too."""
    for seen in _looks(target, backend, every_s):
        now = status(facts(seen))
        show(now)
        if now.state.over:
            return now
    return now


def _looks(target: Target, backend: Backend, every_s: float) -> Iterator[Target]:
    """The target again after each change of its job; once more without it when the cluster has it no longer."""
    try:
        for job in backend.changes(target.name, every_s):
            yield replace(target, job=job)
    except JobMissingError:
        yield replace(target, job=None)
