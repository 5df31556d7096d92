"""Runs as their storage knows them: the run file that a run keeps, and all jobs below a storage root."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from medfuncta_dist.config.kept_run_file import read_kept
from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.errors import JobMissingError, ObjectMissingError
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.submit.backends.backend import Job
from medfuncta_dist.submit.manifest.job_names import join_stages, make_labels
from medfuncta_dist.submit.status.job_records import StoredRun, SubmissionRecord, read_stored_run
from medfuncta_dist.submit.status.run_facts import RunFacts
from medfuncta_dist.submit.status.run_status import derive_status

READERS = 16
"""Runs that are read at once: each takes some ten small requests, which mostly wait."""


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
    store: ObjectStore, on_cluster: Iterable[Job], run: str | None = None, limit: int | None = None
) -> tuple[list[Job], int]:
    """The jobs of the ``limit`` runs in the storage that were active last, or of one: as the cluster reports them where
    it has them, else as the storage tells; and how many runs there are. A run that was never submitted is listed under
    its own name.

    Everything below ``runs/``, or below the one, is listed, at a request per 1000 objects; the records that are there
    are read of no more than ``limit`` runs (None: of all).
    """
    known = {job.name: job for job in on_cluster}
    runs = find_runs(store.list("runs/" if run is None else f"runs/{run}"))
    shown = sorted(runs, key=lambda name: (-runs[name].active, name))[:limit]
    with ThreadPoolExecutor(READERS) as readers:
        found = readers.map(lambda name: (name, read_stored_run(store, name, runs[name].stages)), shown)
        jobs = [job for name, stored in found for job in jobs_of_run(name, stored, known, time.time())]
    return jobs, len(runs)


@dataclass(frozen=True)
class ListedRun:
    """What a listing tells of a run: when a record of its jobs or its progress was written last, and of which stages
    there is progress."""

    active: float
    stages: tuple[str, ...]


def find_runs(listed: Iterable[ObjectInfo]) -> dict[str, ListedRun]:
    """The runs that have jobs or progress, by name. Pure."""
    runs: dict[str, ListedRun] = {}
    for info in listed:
        match info.path.split("/"):
            case ["runs", name, "jobs" | "progress" as folder, file]:
                known = runs.get(name, ListedRun(0.0, ()))
                stage = file.removesuffix(".json")
                more = (stage,) if folder == "progress" and stage in STAGES else ()
                runs[name] = ListedRun(max(known.active, info.modified), (*known.stages, *more))
    return runs


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
    stages = tuple(stage for stage in STAGES if stage in stored.progress)
    facts = RunFacts(now, run, run, stages, None, None, stored.progress)
    labels = make_labels(run, join_stages(stages), 0, run, "", "")
    began = min(progress.began for progress in stored.progress.values())
    return replace(Job(run, derive_status(facts).state, labels), submitted=began)
