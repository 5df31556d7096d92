"""What a person means by RUN or NAME: a run file, a job's name, or the name of a run whose jobs the cluster has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.load import load, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import JobMissingError, MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backend import Backend, Job
from medfuncta_dist.submit.stored import Submitted, read_jobs

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Target:
    """A run, and the job of it that is meant: the one named, else the newest."""

    run_name: str
    run: RunFile | None
    """None where the job was submitted by something that this version can not read."""
    job: Job | None = None
    """As the cluster has it; None where it has not."""
    submitted: Submitted | None = None

    @property
    def name(self) -> str:
        """Of the job; of the run, where there is none."""
        return self.job.name if self.job else self.submitted.name if self.submitted else self.run_name

    @property
    def stages(self) -> tuple[str, ...]:
        """Of the job."""
        return self.job.stages if self.job else self.submitted.stages if self.submitted else ()


def find(text: str, backend: Backend, overrides: Sequence[str] = ()) -> Target:
    """Look it up. JobMissingError when the cluster knows neither a job nor a run of that name."""
    if text.endswith(SUFFIXES) or Path(text).is_file():
        return _of_run(load(text, overrides), backend)
    job = job_or_none(backend, text)
    if job is None:
        jobs = backend.jobs(text)
        if not jobs:
            raise JobMissingError(
                f"there is no job, and no run with jobs, called {text!r}",
                do="give the run file instead: storage remembers what the cluster has forgotten",
            )
        job = jobs[-1]
    return Target(job.run, _run_of(job), job, _record(job))


def job_or_none(backend: Backend, name: str) -> Job | None:
    """A job by its name; None where the cluster has none."""
    try:
        return backend.status(name)
    except JobMissingError:
        return None


def _of_run(run: RunFile, backend: Backend) -> Target:
    recorded = read_jobs(ObjectStore(run.storage), run.name)
    newest = recorded[-1] if recorded else None
    job = job_or_none(backend, newest.name) if newest else None
    return Target(run.name, run, job, newest)


def _run_of(job: Job) -> RunFile | None:
    try:
        return parse(job.run_file, where=f"the run file in {job.name}") if job.run_file else None
    except MedfunctaError:
        return None


def _record(job: Job) -> Submitted | None:
    run = _run_of(job)
    if run is None:
        return None
    try:
        recorded = read_jobs(ObjectStore(run.storage), run.name)
    except MedfunctaError:
        return None  # storage that only the cluster reaches: the cluster's truth is better than none
    return next((submitted for submitted in recorded if submitted.name == job.name), None)
