"""What a person means by RUN or NAME: a run file, a job's name, or the name of a run whose jobs the cluster has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.load import load, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import JobMissingError, MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend, Job
from medfuncta_dist.submit.status.job_records import SubmissionRecord, read_job_records
from medfuncta_dist.telemetry.progress_record import read_progress

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class JobTarget:
    """A run, and the job of it that is meant: the one named, else the newest."""

    run_name: str
    run: RunFile | None
    """None where the job was submitted by something that this version can not read."""
    job: Job | None = None
    """As the cluster has it; None where it has not."""
    submitted: SubmissionRecord | None = None

    @property
    def name(self) -> str:
        """Of the job; of the run, where there is none."""
        return self.job.name if self.job else self.submitted.name if self.submitted else self.run_name

    @property
    def stages(self) -> tuple[str, ...]:
        """Of the job."""
        return self.job.stages if self.job else self.submitted.stages if self.submitted else ()


def find_target(text: str, backend: Backend, overrides: Sequence[str] = ()) -> JobTarget:
    """Look it up. JobMissingError when the cluster knows neither a job nor a run of that name. ``overrides`` change the
    run file, also one that a job carries."""
    if text.endswith(SUFFIXES) or Path(text).is_file():
        return _find_by_run_file(load(text, overrides), backend)
    job = find_job(backend, text)
    if job is None:
        jobs = backend.jobs(text)
        if not jobs:
            raise JobMissingError(
                f"there is no job, and no run with jobs, called {text!r}",
                do="give the run file instead: storage remembers what the cluster has forgotten",
            )
        return _find_newest(jobs, overrides)
    return _make_target(job, overrides)


def find_job(backend: Backend, name: str) -> Job | None:
    """A job by its name; None where the cluster has none."""
    try:
        return backend.status(name)
    except JobMissingError:
        return None


def _find_by_run_file(run: RunFile, backend: Backend) -> JobTarget:
    store = ObjectStore(run.storage)
    newest = _choose_record(
        store, run.name, read_job_records(store, run.name), lambda name: find_job(backend, name) is not None
    )
    job = find_job(backend, newest.name) if newest else None
    return JobTarget(run.name, run, job, newest)


def _find_newest(jobs: Sequence[Job], overrides: Sequence[str]) -> JobTarget:
    """The newest job of a run: the cluster's, unless storage remembers a later one. Cancelled jobs are deleted."""
    # A job that only evaluates carries a run file without the GPUs that the others need.
    known = next((job for job in reversed(jobs) if job.stages != ("evaluate",)), jobs[-1])
    run, there = _parse_run_file(known, overrides), {job.name for job in jobs}
    meant = (
        None
        if run is None
        else _choose_record(ObjectStore(run.storage), run.name, _read_records(run), there.__contains__)
    )
    if run is None or meant is None or meant.name in there:
        return _make_target(next((job for job in jobs if meant and job.name == meant.name), jobs[-1]), overrides)
    if known.stages == ("evaluate",) and meant.stages != known.stages:
        raise JobMissingError(
            f"the newest job is {meant.name}, and what the cluster still has does not tell how that one was run",
            do="give the run file instead",
        )
    return JobTarget(run.name, run, None, meant)


def _choose_record(
    store: ObjectStore, run: str, recorded: Sequence[SubmissionRecord], there: Callable[[str], bool]
) -> SubmissionRecord | None:
    """The newest submission; of a workflow's, which are all recorded at once, the last that has begun, or its first."""
    if not recorded or recorded[-1].workflow is None:
        return recorded[-1] if recorded else None
    chain = [submitted for submitted in recorded if submitted.workflow == recorded[-1].workflow]
    begun = [s for s in chain if s.cancelled or there(s.name) or _has_progress(store, run, s)]
    return begun[-1] if begun else chain[0]


def _has_progress(store: ObjectStore, run: str, submitted: SubmissionRecord) -> bool:
    """Whether a driver of this job has told its progress."""
    told = (read_progress(store, run, stage) for stage in submitted.stages)
    return any(progress is not None and progress.submission == submitted.name for progress in told)


def _make_target(job: Job, overrides: Sequence[str]) -> JobTarget:
    run = _parse_run_file(job, overrides)
    record = next((submitted for submitted in _read_records(run) if submitted.name == job.name), None)
    return JobTarget(job.run, run, job, record)


def _parse_run_file(job: Job, overrides: Sequence[str]) -> RunFile | None:
    where = f"the run file in {job.name}"
    try:
        run = parse(job.run_file, where=where) if job.run_file else None
    except MedfunctaError:
        return None
    return parse(job.run_file, overrides, where) if run is not None and overrides else run


def _read_records(run: RunFile | None) -> list[SubmissionRecord]:
    try:
        return [] if run is None else read_job_records(ObjectStore(run.storage), run.name)
    except MedfunctaError:
        return []  # storage that only the cluster reaches: the cluster's truth is better than none
