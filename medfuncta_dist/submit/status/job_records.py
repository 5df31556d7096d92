"""What storage knows of a run's jobs: what was submitted, how far its stages are, and what ended for good.

runs/<name>/jobs/<job>.json          a commit record a submission: attempts count up even when the cluster forgets
runs/<name>/progress/<stage>.json    telemetry/progress_record.py
runs/<name>/terminal/<job>.json      a commit record: trying again would end the same way
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.storage.commit_record import read_record, read_records
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import NewRecord, Unfenced, publish, publish_first
from medfuncta_dist.telemetry.progress_record import StageProgress, read_progress

JOB_KIND, TERMINAL_KIND = "job", "terminal"
NO_LEASE = Unfenced("whoever submits or cancels is no driver; a job's record is read by other submitters only")


@dataclass(frozen=True)
class Submitted:
    """A submission, written before the cluster hears of it: a name is never given twice. ``time`` is Unix seconds."""

    name: str
    stages: tuple[str, ...]
    attempt: int
    backend: str
    time: float
    run_file_digest: str
    commit: str
    idempotency_key: str | None = None
    cancelled: float | None = None
    """When somebody asked for its end."""
    overlays: tuple[str, ...] = ()
    """Asked for beside those of the run file: a resumed job has them, too."""
    workflow: str | None = None
    """The Argo Workflow that sends it to the cluster when its turn comes."""


@dataclass(frozen=True)
class Terminal:
    """Why a job must not be tried again as it is: the exit code, and the error in words."""

    code: int
    what: str
    do: str


@dataclass(frozen=True)
class Stored:
    """A run, as its storage tells it."""

    jobs: tuple[Submitted, ...]
    progress: dict[str, StageProgress]
    terminal: dict[str, Terminal]
    """By job."""

    def named(self, job: str) -> Submitted | None:
        """The submission of that name."""
        return next((submitted for submitted in self.jobs if submitted.name == job), None)


def read_stored(store: ObjectStore, run: str, stages: Sequence[str]) -> Stored:
    """Everything above for one run, in a few small reads."""
    told = {stage: read_progress(store, run, stage) for stage in stages}
    return Stored(
        jobs=tuple(read_jobs(store, run)),
        progress={stage: progress for stage, progress in told.items() if progress is not None},
        terminal=read_terminal(store, run),
    )


def read_jobs(store: ObjectStore, run: str) -> list[Submitted]:
    """All submissions of a run, oldest first."""
    records = read_records(store, f"runs/{run}/jobs", JOB_KIND)
    return sorted((_submitted(path, record.body) for path, record in records), key=lambda s: (s.time, s.name))


def create_job(conditional: ConditionalStore, run: str, submitted: Submitted) -> bool:
    """Record a submission where its name is still free; False where somebody has it."""
    return publish_first(conditional, NewRecord(_job_path(run, submitted.name), JOB_KIND, _body(submitted)))


def read_job(store: ObjectStore, run: str, name: str) -> Submitted | None:
    """One submission; None where there is none of that name."""
    path = _job_path(run, name)
    try:
        return _submitted(path, read_record(store, path, JOB_KIND))
    except ObjectMissingError:
        return None


def write_job(store: ObjectStore, run: str, submitted: Submitted) -> None:
    """Record what became of a submission."""
    publish(store, NO_LEASE, NewRecord(_job_path(run, submitted.name), JOB_KIND, _body(submitted)))


def delete_job(store: ObjectStore, run: str, name: str) -> None:
    """Forget a job that the cluster refused."""
    store.delete(_job_path(run, name))


def read_terminal(store: ObjectStore, run: str) -> dict[str, Terminal]:
    """The terminal records of a run, by job."""
    records = read_records(store, f"runs/{run}/terminal", TERMINAL_KIND)
    return {_stem(path): _terminal(record.body) for path, record in records}


def _job_path(run: str, name: str) -> str:
    return f"runs/{run}/jobs/{name}.json"


def _body(submitted: Submitted) -> dict[str, Any]:
    return asdict(submitted) | {"stages": list(submitted.stages), "overlays": list(submitted.overlays)}


def _submitted(path: str, body: dict[str, Any]) -> Submitted:
    try:
        lists = {"stages": tuple(body["stages"]), "overlays": tuple(body.get("overlays", ()))}
        return Submitted(**{**body, **lists})
    except (KeyError, TypeError) as error:
        raise IntegrityError("a job's record does not have the fields it should have", where=path) from error


def _terminal(body: dict[str, Any]) -> Terminal:
    return Terminal(int(body.get("exit_code", 1)), str(body.get("what", "")), str(body.get("do", "")))


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")
