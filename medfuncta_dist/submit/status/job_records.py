"""What storage records of a run's jobs: what was submitted, the progress of each stage, and what ended for good.

runs/<name>/jobs/<job>.json          one commit record per submission, so that attempts are counted
runs/<name>/progress/<stage>.json    telemetry/progress_record.py
runs/<name>/terminal/<job>.json      one commit record per job that must not be retried: it would end the same way
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.storage.commit_record import read_record, read_records
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import NewRecord, Unfenced, publish, publish_first
from medfuncta_dist.telemetry.active_runs import mark_active
from medfuncta_dist.telemetry.progress_record import StageProgress, read_progress

JOB_KIND, TERMINAL_KIND = "job", "terminal"
NO_LEASE = Unfenced("whoever submits or cancels is no driver; a job's record is read by other submitters only")


@dataclass(frozen=True)
class SubmissionRecord:
    """A submission, recorded before the job is sent, so that no name is used twice. ``time`` is in Unix seconds."""

    name: str
    stages: tuple[str, ...]
    attempt: int
    backend: str
    time: float
    run_file_digest: str
    commit: str
    idempotency_key: str | None = None
    cancelled: float | None = None
    """When a user cancelled it, in Unix seconds."""
    overlays: tuple[str, ...] = ()
    """Overlays given at submission, after the run file's: a resumed job has them, too."""
    workflow: str | None = None
    """The Argo Workflow that sends it to the cluster after the jobs before it."""


@dataclass(frozen=True)
class TerminalRecord:
    """Why a job must not be retried as it is: exit code, error, and what to do."""

    code: int
    what: str
    do: str


@dataclass(frozen=True)
class StoredRun:
    """Everything that storage records of a run's jobs."""

    jobs: tuple[SubmissionRecord, ...]
    progress: dict[str, StageProgress]
    terminal: dict[str, TerminalRecord]
    """By the job's name."""

    def find_record(self, job: str) -> SubmissionRecord | None:
        """The submission of that name; None if there is none."""
        return next((record for record in self.jobs if record.name == job), None)


def read_stored_run(store: ObjectStore, run: str, stages: Sequence[str]) -> StoredRun:
    """Read a run's records, in a few small reads."""
    progress = {stage: read_progress(store, run, stage) for stage in stages}
    return StoredRun(
        jobs=tuple(read_job_records(store, run)),
        progress={stage: found for stage, found in progress.items() if found is not None},
        terminal=read_terminal_records(store, run),
    )


def read_job_records(store: ObjectStore, run: str) -> list[SubmissionRecord]:
    """All submissions of a run, oldest first."""
    records = read_records(store, f"runs/{run}/jobs", JOB_KIND)
    return sorted((_parse_submission(path, record.body) for path, record in records), key=lambda s: (s.time, s.name))


def create_job_record(conditional: ConditionalStore, run: str, record: SubmissionRecord) -> bool:
    """Record a submission; False if its name is taken."""
    created = publish_first(conditional, NewRecord(_make_job_path(run, record.name), JOB_KIND, _to_body(record)))
    if created:
        mark_active(conditional.store, run)
    return created


def read_job_record(store: ObjectStore, run: str, name: str) -> SubmissionRecord | None:
    """One submission; None if there is none of that name."""
    path = _make_job_path(run, name)
    try:
        return _parse_submission(path, read_record(store, path, JOB_KIND))
    except ObjectMissingError:
        return None


def write_job_record(store: ObjectStore, run: str, record: SubmissionRecord) -> None:
    """Overwrite the record of a submission."""
    publish(store, NO_LEASE, NewRecord(_make_job_path(run, record.name), JOB_KIND, _to_body(record)))
    mark_active(store, run)


def delete_job_record(store: ObjectStore, run: str, name: str) -> None:
    """Delete the record of a job that the cluster refused."""
    store.delete(_make_job_path(run, name))


def read_terminal_records(store: ObjectStore, run: str) -> dict[str, TerminalRecord]:
    """The terminal records of a run, by job."""
    records = read_records(store, f"runs/{run}/terminal", TERMINAL_KIND)
    return {_parse_job_name(path): _parse_terminal(record.body) for path, record in records}


def read_terminal_record(store: ObjectStore, run: str, job: str) -> TerminalRecord | None:
    """How a job ended for good; None if it did not."""
    with suppress(ObjectMissingError):
        return _parse_terminal(read_record(store, f"runs/{run}/terminal/{job}.json", TERMINAL_KIND))
    return None


def _make_job_path(run: str, name: str) -> str:
    return f"runs/{run}/jobs/{name}.json"


def _to_body(record: SubmissionRecord) -> dict[str, Any]:
    return asdict(record) | {"stages": list(record.stages), "overlays": list(record.overlays)}


def _parse_submission(path: str, body: dict[str, Any]) -> SubmissionRecord:
    try:
        lists = {"stages": tuple(body["stages"]), "overlays": tuple(body.get("overlays", ()))}
        return SubmissionRecord(**{**body, **lists})
    except (KeyError, TypeError) as error:
        raise IntegrityError("a job's record has missing or unknown fields", where=path) from error


def _parse_terminal(body: dict[str, Any]) -> TerminalRecord:
    return TerminalRecord(int(body.get("exit_code", 1)), str(body.get("what", "")), str(body.get("do", "")))


def _parse_job_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")
