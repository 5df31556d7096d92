"""What `list --storage` costs: a request per 1000 objects, and a few for each run that it shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.status.job_records import SubmissionRecord, create_job_record
from medfuncta_dist.submit.status.stored_runs import find_runs, list_stored_jobs
from medfuncta_dist.telemetry.progress_record import ProgressRecorder
from medfuncta_dist.telemetry.progress_report import ProgressReport

STAGES = ("pack", "train", "fit")
PER_RUN = 2 + 2 * len(STAGES)
"""Requests: two listings, and each job's record and progress."""


class Counted:
    """A backend of a store that counts its requests."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.counts = backend, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        self.counts[name] += 1
        return getattr(self.backend, name)


def store_with(folder: Path, runs: int) -> tuple[ObjectStore, Counted]:
    """Runs of three jobs, as submission and drivers record them; the last one is the newest."""
    store = ObjectStore(str(folder))
    conditional = ConditionalStore(store, conditional=True)
    for number in range(runs):
        for stage in STAGES:
            record = SubmissionRecord(f"r{number}-{stage}", (stage,), 1, "ray", float(number), "0" * 64, "abc")
            assert create_job_record(conditional, f"r{number}", record)
            with ProgressRecorder(store, f"r{number}", stage, job=record.name) as recorder:
                recorder.record(ProgressReport(stage, 1, 2))
    counted = Counted(store._backend)
    vars(store)["_backend"] = counted
    return store, counted


@pytest.mark.parametrize("runs", [8, 24])
def test_requests_are_those_of_the_runs_that_are_shown(runs: int, tmp_path: Path) -> None:
    store, counted = store_with(tmp_path, runs)
    jobs, found = list_stored_jobs(store, [], limit=4)
    assert found == runs
    assert {job.run for job in jobs} == {f"r{number}" for number in range(runs - 4, runs)}
    assert {job.state for job in jobs} == {JobState.DONE}
    assert sum(counted.counts.values()) == 1 + 4 * PER_RUN, counted.counts


def test_one_run_costs_the_same_among_many(tmp_path: Path) -> None:
    store, counted = store_with(tmp_path, 8)
    jobs, found = list_stored_jobs(store, [], "r3", limit=4)
    assert (found, [job.name for job in jobs]) == (1, ["r3-fit", "r3-pack", "r3-train"])
    assert sum(counted.counts.values()) == 1 + PER_RUN


def test_without_a_limit_all_are_listed(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, 6)
    jobs, found = list_stored_jobs(store, [])
    assert (len(jobs), found) == (18, 6)


def test_what_is_no_job_and_no_progress_makes_no_run() -> None:
    paths = ["runs/a/run.yaml", "runs/b/jobs/b-fit.json", "runs/b/progress/fit.json", "runs/b/progress/._x.json"]
    found = find_runs(ObjectInfo(path, 1, modified=float(n)) for n, path in enumerate(paths))
    assert {name: run.stages for name, run in found.items()} == {"b": ("fit",)}
