"""Gathering the facts that ``run_status.py`` derives a status from, in a few small reads of storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import KNOWN
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.status.job_records import StoredRun, read_stored_run
from medfuncta_dist.submit.status.job_target import JobTarget
from medfuncta_dist.submit.status.next_command import Invocation, Place
from medfuncta_dist.submit.status.run_cost import HourlyCost, compute_hourly_cost
from medfuncta_dist.submit.status.run_facts import RunFacts
from medfuncta_dist.submit.status.status_advice import find_place

OverridesOf = Callable[[RunFile, ObjectStore], tuple[str, ...]]
"""The settings with which a run was begun: ``run/begun_overrides.py``, which this room may not import."""


@dataclass(frozen=True)
class Inquiry:
    """Who asks for a status, and of whom."""

    backend: Backend
    """It is asked why a job does not run."""
    invocation: Invocation
    find_overrides: OverridesOf = lambda _run, _store: ()


def gather_facts(target: JobTarget, inquiry: Inquiry | None = None) -> RunFacts:
    """All that is known of a target now. If storage cannot be read from here: what the cluster knows.

    Without ``inquiry``, the cluster is not asked why the job waits.
    """
    stored = _read_stored(target)
    submission = target.job.submission_id if target.job else target.name
    stages = target.stages or tuple(stage for stage in KNOWN if stage in stored.progress)
    facts = RunFacts(
        now=time.time(),
        name=target.name,
        run=target.run_name,
        stages=stages,
        job=target.job,
        record=stored.find_record(target.name) or target.record,
        progress=stored.progress,
        terminal=stored.terminal.get(submission),
        rates=HourlyCost() if target.run is None else compute_hourly_cost(target.run, stages),
    )
    return facts if inquiry is None else _ask(facts, target, inquiry)


def _ask(facts: RunFacts, target: JobTarget, inquiry: Inquiry) -> RunFacts:
    """The facts, with why the cluster does not run the job, or with how a local run was begun."""
    known = replace(facts, invocation=inquiry.invocation, backend=inquiry.backend.name)
    if target.job is not None:
        known = replace(known, explanation=inquiry.backend.explain(target.job))
    if find_place(known) is Place.LOCAL and target.run is not None:
        return replace(known, overrides=inquiry.find_overrides(target.run, ObjectStore(target.run.storage)))
    return known


def _read_stored(target: JobTarget) -> StoredRun:
    if target.run is None:
        return StoredRun((), {}, {})
    try:
        return read_stored_run(ObjectStore(target.run.storage), target.run.name, KNOWN)
    except MedfunctaError:
        if target.job is None:
            raise
        return StoredRun((), {}, {})
