"""Finding the job that RUN.yaml|NAME means: a run file, a job's name, or the name of a run with jobs on the cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.load import load, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import JobMissingError, MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend, Job
from medfuncta_dist.submit.status.job_records import SubmissionRecord, read_job_records
from medfuncta_dist.submit.status.stored_runs import load_stored_run
from medfuncta_dist.telemetry.progress_record import read_progress

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class JobTarget:
    """A run and one job of it: the one that was named, else the newest."""

    run_name: str
    run: RunFile | None
    """None if this version cannot read the run file that the job was submitted with."""
    job: Job | None = None
    """As the cluster reports it; None if the cluster does not have it."""
    record: SubmissionRecord | None = None
    may_lack_gpus: bool = False
    """Whether ``run`` may be the run file of a job that only evaluates, and this job have GPUs all the same."""

    @property
    def name(self) -> str:
        """The job's name; the run's, if there is no job."""
        known = self.job or self.record
        return known.name if known is not None else self.run_name

    @property
    def stages(self) -> tuple[str, ...]:
        """The job's stages."""
        known = self.job or self.record
        return known.stages if known is not None else ()


def find_target(text: str, backend: Backend, overrides: Sequence[str] = (), storage: str | None = None) -> JobTarget:
    """The job that ``text`` means. ``overrides`` change the run file, also one that a job carries. With ``storage``, a
    name is looked up below that root, and the cluster is only asked for the job that is found; what the root lacks is
    looked up on the cluster as well: a job that still waits has left no run file in storage.

    JobMissingError when the cluster has neither a job nor jobs of a run of that name.
    """
    if is_run_file(text):
        return _find_by_run_file(load(text, overrides), backend)
    if storage is None:
        return _find_on_cluster(text, backend, overrides)
    try:
        stored = load_stored_run(storage, text, overrides)
    except JobMissingError as error:
        with suppress(JobMissingError):
            return _find_on_cluster(text, backend, overrides)
        raise error from None
    return _find_by_stored_run(*stored, backend)


def _find_on_cluster(text: str, backend: Backend, overrides: Sequence[str]) -> JobTarget:
    job = find_job(backend, text)
    if job is None:
        jobs = backend.list_jobs(text)
        if not jobs:
            raise JobMissingError(
                f"the cluster has no job named {text!r}, and no jobs of a run of that name",
                do="give the run file, or --storage ROOT: storage also has the jobs that the cluster has deleted",
            )
        return _find_newest(jobs, overrides)
    return _make_target(job, overrides)


def is_run_file(text: str) -> bool:
    """Whether ``RUN.yaml|NAME`` is a run file."""
    return text.endswith(SUFFIXES) or Path(text).is_file()


def find_job(backend: Backend, name: str) -> Job | None:
    """A job by its name; None if the cluster does not have it."""
    try:
        return backend.read_job(name)
    except JobMissingError:
        return None


def _find_by_run_file(run: RunFile, backend: Backend) -> JobTarget:
    records = read_job_records(ObjectStore(run.storage), run.name)
    newest = _choose_record(run, records, lambda name: find_job(backend, name) is not None)
    job = find_job(backend, newest.name) if newest else None
    return JobTarget(run.name, run, job, newest)


def _find_by_stored_run(run: RunFile, job: str | None, backend: Backend) -> JobTarget:
    records = read_job_records(ObjectStore(run.storage), run.name)
    named = next((record for record in records if record.name == job), None)
    newest = named or _choose_record(run, records, lambda name: find_job(backend, name) is not None)
    if newest is None:
        return JobTarget(run.name, run)
    # Every job without GPUs keeps the same run file, whether training has some or not.
    evaluated = newest.stages != ("evaluate",) and any(record.stages == ("evaluate",) for record in records)
    may_lack_gpus = evaluated and not run.cluster.gpus_per_worker
    return JobTarget(run.name, run, find_job(backend, newest.name), newest, may_lack_gpus)


def _find_newest(jobs: Sequence[Job], overrides: Sequence[str]) -> JobTarget:
    """The newest job of a run: the cluster's, unless storage has a later one, as cancelled jobs are deleted."""
    # The run file of a job that only evaluates has no GPUs, which the other stages need.
    source = next((job for job in reversed(jobs) if job.stages != ("evaluate",)), jobs[-1])
    on_cluster = {job.name: job for job in jobs}
    run = parse_run_file(source, overrides)
    newest = None if run is None else _choose_record(run, _read_records(run), on_cluster.__contains__)
    if run is None or newest is None or newest.name in on_cluster:
        return _make_target(jobs[-1] if newest is None else on_cluster[newest.name], overrides)
    if source.stages == ("evaluate",) and newest.stages != source.stages:
        raise JobMissingError(
            f"the newest job is {newest.name}, and the jobs that are still on the cluster do not show its run file",
            do="give the run file instead",
        )
    return JobTarget(run.name, run, None, newest)


def _choose_record(
    run: RunFile, records: Sequence[SubmissionRecord], is_on_cluster: Callable[[str], bool]
) -> SubmissionRecord | None:
    """The newest submission. Of a workflow's jobs, recorded all at once, the last one that has begun, or the first."""
    if not records or records[-1].workflow is None:
        return records[-1] if records else None
    store, chain = ObjectStore(run.storage), [r for r in records if r.workflow == records[-1].workflow]
    begun = [r for r in chain if r.cancelled or is_on_cluster(r.name) or _has_progress(store, run.name, r)]
    return begun[-1] if begun else chain[0]


def _has_progress(store: ObjectStore, run: str, record: SubmissionRecord) -> bool:
    """Whether a driver of this job has recorded progress."""
    found = (read_progress(store, run, stage) for stage in record.stages)
    return any(progress is not None and progress.submission == record.name for progress in found)


def _make_target(job: Job, overrides: Sequence[str]) -> JobTarget:
    run = parse_run_file(job, overrides)
    record = next((record for record in _read_records(run) if record.name == job.name), None)
    return JobTarget(job.run, run, job, record)


def parse_run_file(job: Job, overrides: Sequence[str] = ()) -> RunFile | None:
    """The run file that a job on the cluster carries; None if this version cannot read it."""
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
        return []  # storage that only the cluster can reach: what the cluster reports must do
