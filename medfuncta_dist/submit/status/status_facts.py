"""Gathering the facts that ``run_status.py`` derives a status from, in a few small reads of storage."""

from __future__ import annotations

import time

from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.status.job_records import StoredRun, read_stored_run
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.run_cost import compute_hourly_cost
from medfuncta_dist.submit.status.run_status import RunFacts


def gather_facts(target: JobTarget) -> RunFacts:
    """All that is known of a target now. If storage cannot be read from here: what the cluster knows."""
    stored = _read_stored(target)
    submission = target.job.submission_id if target.job else target.name
    stages = target.stages or tuple(stage for stage in STAGES if stage in stored.progress)
    return RunFacts(
        now=time.time(),
        name=target.name,
        run=target.run_name,
        stages=stages,
        job=target.job,
        record=stored.find_record(target.name) or target.record,
        progress=stored.progress,
        terminal=stored.terminal.get(submission),
        **({} if target.run is None else {"rates": compute_hourly_cost(target.run, stages)}),
    )


def _read_stored(target: JobTarget) -> StoredRun:
    if target.run is None:
        return StoredRun((), {}, {})
    try:
        return read_stored_run(ObjectStore(target.run.storage), target.run.name, STAGES)
    except MedfunctaError:
        if target.job is None:
            raise
        return StoredRun((), {}, {})
