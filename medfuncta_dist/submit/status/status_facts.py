"""Gathers what ``run_status.py`` judges: one look at the cluster, and a few small reads from storage."""

from __future__ import annotations

import time
from dataclasses import replace

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Job
from medfuncta_dist.submit.status.job_records import StoredRun, read_stored_run
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.run_cost import compute_hourly_cost
from medfuncta_dist.submit.status.run_status import RunFacts

STAGES = ("pack", "train", "fit", "evaluate")


def gather_facts(target: JobTarget) -> RunFacts:
    """All that is known of a target now. Storage that can not be read from here leaves the cluster's part."""
    stored = _read_stored(target)
    submission = target.job.submission if target.job else target.name
    stages = target.stages or tuple(stage for stage in STAGES if stage in stored.progress)
    return RunFacts(
        now=time.time(),
        name=target.name,
        run=target.run_name,
        stages=stages,
        job=target.job,
        submitted=stored.named(target.name) or target.submitted,
        progress=stored.progress,
        terminal=stored.terminal.get(submission),
        **({} if target.run is None else {"rates": compute_hourly_cost(target.run, stages)}),
    )


def later(target: JobTarget, job: Job | None) -> JobTarget:
    """The same target when the cluster has news of its job."""
    return replace(target, job=job)


def _read_stored(target: JobTarget) -> StoredRun:
    if target.run is None:
        return StoredRun((), {}, {})
    try:
        return read_stored_run(ObjectStore(target.run.storage), target.run.name, STAGES)
    except MedfunctaError:
        if target.job is None:
            raise
        return StoredRun((), {}, {})
