"""Runs as their storage knows them: the run file that a run keeps, and all jobs below a storage root."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from medfuncta_dist.config.kept_run_file import read_kept
from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import KNOWN
from medfuncta_dist.errors import JobMissingError, ObjectMissingError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Job
from medfuncta_dist.submit.manifest.job_names import join_stages, make_labels
from medfuncta_dist.submit.status.job_records import (
    StoredRun,
    SubmissionRecord,
    TerminalRecord,
    read_job_records,
    read_terminal_record,
    read_terminal_records,
)
from medfuncta_dist.submit.status.run_facts import RunFacts
from medfuncta_dist.submit.status.run_status import derive_status
from medfuncta_dist.telemetry.active_runs import FOLDER, ActiveRuns, order_runs
from medfuncta_dist.telemetry.progress_record import read_progress

READERS = 16
"""Runs that are read at once: each takes two small requests and two for each job, which mostly wait."""
READ_ALONE = 2
"""Jobs whose terminal records are read one by one, without a list, which takes client and server twice as long."""


def load_stored_run(root: str, name: str, overrides: Sequence[str] = ()) -> tuple[RunFile, str | None]:
    """The run file that a run below a storage root keeps, with ``overrides``; and the job's name, if ``name`` is one.

    JobMissingError where the storage has no such run, or keeps no run file of it yet.
    """
    store = ObjectStore(root)
    run_name, job = find_stored_name(store, name)
    kept = read_kept(store, run_name)
    if kept is None:
        raise JobMissingError(
            f"the storage has no run file of a run or a job named {name!r}",
            where=store.root,
            do="check name and root; or give the run file: a run keeps its own only from its first stage on",
        )
    # Its storage may be named otherwise from here: a relative folder, another mount.
    where = f"the run file that {run_name} keeps"
    return parse(dump(kept), [*overrides, f"storage={store.root}"], where), job


def find_stored_name(store: ObjectStore, name: str) -> tuple[str, str | None]:
    """The run that is meant, and its job, if ``name`` is a job's."""
    if not store.exists(f"runs/{name}/run.yaml"):
        for run in possible_runs(name):
            with suppress(ObjectMissingError):
                store.size(f"runs/{run}/jobs/{name}.json")
                return run, name
    return name, None


def possible_runs(job: str) -> list[str]:
    """The runs that a job of this name may be of: ``a-b`` and ``a`` for ``a-b-fit``."""
    parts = job.split("-")
    return ["-".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def list_stored_jobs(
    store: ObjectStore,
    ask_cluster: Callable[[], Iterable[Job]] = tuple,
    run: str | None = None,
    limit: int | None = None,
) -> tuple[list[Job], ActiveRuns]:
    """The jobs of the first ``limit`` runs in the storage (None: of all), or of one: as the cluster reports them where
    it has them, else as the storage tells; and what runs there are. A run that was never submitted is listed under its
    own name. The cluster is asked while the storage answers.

    Two listings find the runs, at a request per 1000 runs, whatever lies in their folders; then the records of the
    shown ones are read. Runs in which only earlier versions have worked come after all others, by name.
    """
    with ThreadPoolExecutor(READERS) as readers:
        finding = readers.submit(lambda: find_runs(store) if run is None else ActiveRuns((run,), ()))
        known = {job.name: job for job in ask_cluster()}
        runs = finding.result()
        found = readers.map(lambda name: (name, read_listed_run(store, name, known)), runs.names[:limit])
        jobs = [job for name, stored in found for job in jobs_of_run(name, stored, known, time.time())]
    return jobs, runs


def find_runs(store: ObjectStore) -> ActiveRuns:
    """The runs in the storage, in the order in which they are listed."""
    with ThreadPoolExecutor(2) as readers:
        marks, folders = readers.submit(store.list, FOLDER), readers.submit(store.folders, "runs")
        return order_runs(marks.result(), folders.result())


def read_listed_run(store: ObjectStore, run: str, on_cluster: Collection[str]) -> StoredRun:
    """What a list shows of a run: of jobs that the cluster has, no more than their records."""
    jobs = tuple(read_job_records(store, run))
    gone = [record for record in jobs if record.name not in on_cluster]
    stages = {stage for record in gone for stage in record.stages} if jobs else set(KNOWN)
    progress = {stage: found for stage in KNOWN if stage in stages and (found := read_progress(store, run, stage))}
    return StoredRun(jobs, progress, _terminal_records(store, run, [record.name for record in gone]))


def _terminal_records(store: ObjectStore, run: str, jobs: Sequence[str]) -> dict[str, TerminalRecord]:
    """Of these jobs: a small object each, until a list of all that the run has costs less."""
    if len(jobs) > READ_ALONE:
        return read_terminal_records(store, run)
    return {job: found for job in jobs if (found := read_terminal_record(store, run, job))}


def jobs_of_run(run: str, stored: StoredRun, on_cluster: Mapping[str, Job], now: float) -> list[Job]:
    """The jobs of a run. Pure."""
    if not stored.jobs and stored.progress:
        return [_local_job(run, stored, now)]
    return [on_cluster.get(record.name) or _stored_job(run, record, stored, now) for record in stored.jobs]


def _stored_job(run: str, record: SubmissionRecord, stored: StoredRun, now: float) -> Job:
    # What another submission did says nothing of this one.
    own = {stage: known for stage, known in stored.progress.items() if known.submission == record.name}
    facts = RunFacts(now, record.name, run, record.stages, None, record, own, stored.terminal.get(record.name))
    labels = make_labels(
        run, join_stages(record.stages), record.attempt, record.name, record.run_file_digest, record.commit
    )
    return Job(record.name, derive_status(facts).state, labels, submitted=record.time)


def _local_job(run: str, stored: StoredRun, now: float) -> Job:
    stages = tuple(stage for stage in KNOWN if stage in stored.progress)
    facts = RunFacts(now, run, run, stages, None, None, stored.progress)
    labels = make_labels(run, join_stages(stages), 0, run, "", "")
    began = min(progress.began for progress in stored.progress.values())
    return replace(Job(run, derive_status(facts).state, labels), submitted=began)
