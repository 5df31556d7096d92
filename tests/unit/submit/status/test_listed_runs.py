"""What `list --storage` costs: two listings, and a few reads for each run that it shows, whatever else is stored."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.storage.publish import ALONE, NewRecord, publish
from medfuncta_dist.submit.backends.backend import Job, JobState
from medfuncta_dist.submit.status.job_records import TERMINAL_KIND, SubmissionRecord, create_job_record
from medfuncta_dist.submit.status.stored_runs import list_stored_jobs
from medfuncta_dist.telemetry.active_runs import ActiveRuns, active_path, explain_limit, mark_active, order_runs
from medfuncta_dist.telemetry.progress_record import ProgressRecorder
from medfuncta_dist.telemetry.progress_report import ProgressReport

STAGES = ("pack", "train", "fit")
PER_RUN = 2 + 2 * len(STAGES)
"""Requests: two listings, and each job's record and progress."""


class Counted:
    """A backend of a store that counts its requests."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.counts = backend, Counter[str]()
        self.waits_for = threading.Event()
        self.waits_for.set()

    def __getattr__(self, name: str) -> Any:
        self.counts[name] += 1
        assert self.waits_for.wait(10)
        return getattr(self.backend, name)


def store_with(folder: Path, runs: int, others: int = 1) -> tuple[ObjectStore, Counted]:
    """Runs of three jobs, as submission and drivers record them, with ``others`` more objects in each; the last run is
    the newest."""
    store = ObjectStore(str(folder))
    conditional = ConditionalStore(store, conditional=True)
    for number in range(runs):
        for stage in STAGES:
            record = SubmissionRecord(f"r{number}-{stage}", (stage,), 1, "ray", float(number), "0" * 64, "abc")
            assert create_job_record(conditional, f"r{number}", record)
            with ProgressRecorder(store, f"r{number}", stage, job=record.name) as recorder:
                recorder.record(ProgressReport(stage, 1, 2))
        for part in range(others):
            store.write(f"runs/r{number}/latents/a-b/parts/{part}.parquet", b"x")
    counted = Counted(store._backend)
    vars(store)["_backend"] = counted
    return store, counted


@pytest.mark.parametrize(("runs", "others"), [(8, 1), (8, 40), (24, 1)])
def test_requests_are_those_of_the_runs_that_are_shown(runs: int, others: int, tmp_path: Path) -> None:
    store, counted = store_with(tmp_path, runs, others)
    jobs, found = list_stored_jobs(store, limit=4)
    assert len(found.names) == runs
    assert {job.run for job in jobs} == {f"r{number}" for number in range(runs - 4, runs)}
    assert {job.state for job in jobs} == {JobState.DONE}
    assert sum(counted.counts.values()) == 2 + 4 * PER_RUN, counted.counts


def test_one_run_costs_the_same_among_many(tmp_path: Path) -> None:
    store, counted = store_with(tmp_path, 8)
    jobs, _ = list_stored_jobs(store, run="r3", limit=4)
    assert [job.name for job in jobs] == ["r3-fit", "r3-pack", "r3-train"]
    assert sum(counted.counts.values()) == PER_RUN


def test_of_jobs_that_the_cluster_has_only_their_records_are_read(tmp_path: Path) -> None:
    store, counted = store_with(tmp_path, 1)
    on_cluster = [Job(f"r0-{stage}", JobState.RUNNING, {}) for stage in STAGES]
    jobs, _ = list_stored_jobs(store, lambda: on_cluster)
    assert {job.state for job in jobs} == {JobState.RUNNING}
    assert sum(counted.counts.values()) == 2 + 1 + len(STAGES)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_job_that_ended_for_good_has_failed(attempts: int, tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    for number in range(1, attempts + 1):
        record = SubmissionRecord(f"x-{number}", ("fit",), number, "ray", float(number), "0" * 64, "abc")
        assert create_job_record(ConditionalStore(store, conditional=True), "x", record)
    body = {"exit_code": 2, "what": "refused", "do": "mend it"}
    publish(store, ALONE, NewRecord("runs/x/terminal/x-1.json", TERMINAL_KIND, body))
    states = {job.name: job.state for job in list_stored_jobs(store)[0]}
    assert states.pop("x-1") is JobState.FAILED
    assert JobState.FAILED not in states.values()


def test_the_cluster_is_asked_while_the_storage_answers(tmp_path: Path) -> None:
    store, counted = store_with(tmp_path, 1)
    asked = threading.Event()
    counted.waits_for = asked

    def ask_cluster() -> list[Job]:
        asked.set()
        return []

    assert len(list_stored_jobs(store, ask_cluster)[0]) == len(STAGES)


def test_without_a_limit_all_are_listed(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, 6)
    jobs, found = list_stored_jobs(store)
    assert (len(jobs), len(found.names)) == (18, 6)


def test_runs_of_earlier_versions_come_last_and_deleted_ones_not_at_all(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, 4)
    store.delete(active_path("r3"))
    for path in [info.path for info in store.list("runs/r1")]:
        store.delete(path)
    for folder, _, _ in os.walk(tmp_path / "runs" / "r1", topdown=False):
        os.rmdir(folder)
    jobs, found = list_stored_jobs(store)
    assert found == ActiveRuns(("r2", "r0"), ("r3",))
    assert {job.run for job in jobs} == {"r0", "r2", "r3"}
    assert list_stored_jobs(store, run="r1")[0] == []


def test_a_local_run_is_listed_under_its_own_name(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    with ProgressRecorder(store, "x", "pack"):
        pass
    jobs, found = list_stored_jobs(store, limit=4)
    assert ([job.name for job in jobs], found) == (["x"], ActiveRuns(("x",), ()))


def test_a_stage_writes_it_when_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    with ProgressRecorder(store, "x", "train", write_s=0) as recorder:
        begun = store.info(active_path("x")).version
        recorder.record(ProgressReport("train", 1, 2))
        assert store.info(active_path("x")).version == begun
    assert store.info(active_path("x")).version != begun


def test_storage_that_refuses_it_ends_nothing_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "active").write_text("a file where the folder should be")
    for _ in range(2):
        mark_active(ObjectStore(str(tmp_path)), "x")
    assert capsys.readouterr().err.count("telemetry: `list` may show") == 1


def test_runs_are_ordered_by_activity_then_by_name() -> None:
    marks = [ObjectInfo(f"active/{name}.json", 1, modified=time) for name, time in [("a", 1), ("b", 3), ("gone", 9)]]
    found = order_runs(marks, ["old", "b", "a", "earlier"])
    assert found.names == ("b", "a", "earlier", "old")
    assert "1 of the others" in explain_limit(found, 3)
    assert (
        explain_limit(ActiveRuns(("b", "a"), ()), 1) == "1 of 2 runs are listed, those active last; --limit 0 lists all"
    )
