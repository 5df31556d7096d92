"""Gathers what ``run_status.py`` judges: one look at the cluster, and a few small reads from storage."""

from __future__ import annotations

import time
from dataclasses import replace

from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Job
from medfuncta_dist.submit.status.job_records import Stored, read_stored
from medfuncta_dist.submit.status.job_target import Target
from medfuncta_dist.submit.status.run_cost import rates
from medfuncta_dist.submit.status.run_status import Facts


def facts(target: Target) -> Facts:
    """All that is known of a target now. Storage that can not be read from here leaves the cluster's part."""
    stored = _stored(target)
    submission = target.job.submission if target.job else target.name
    stages = target.stages or tuple(stage for stage in STAGES if stage in stored.progress)
    return Facts(
        now=time.time(),
        name=target.name,
        run=target.run_name,
        stages=stages,
        job=target.job,
        submitted=stored.named(target.name) or target.submitted,
        progress=stored.progress,
        terminal=stored.terminal.get(submission),
        **({} if target.run is None else {"rates": rates(target.run, stages)}),
    )


def later(target: Target, job: Job | None) -> Target:
    """The same target when the cluster has news of its job."""
    return replace(target, job=job)


def _stored(target: Target) -> Stored:
    if target.run is None:
        return Stored((), {}, {})
    try:
        return read_stored(ObjectStore(target.run.storage), target.run.name, STAGES)
    except MedfunctaError:
        if target.job is None:
            raise
        return Stored((), {}, {})
