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
from medfuncta_dist.storage.commit_record import make_record, read_record, read_records, write_record
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.leases.compare_and_swap import Seen, Swap
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_record import StageProgress, read_progress

JOB_KIND, TERMINAL_KIND = "job", "terminal"


@dataclass(frozen=True)
class SubmissionRecord:
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
class TerminalRecord:
    """Why a job must not be tried again as it is: the exit code, and the error in words."""

    code: int
    what: str
    do: str


@dataclass(frozen=True)
class StoredRun:
    """A run, as its storage tells it."""

    jobs: tuple[SubmissionRecord, ...]
    progress: dict[str, StageProgress]
    terminal: dict[str, TerminalRecord]
    """By job."""

    def named(self, job: str) -> SubmissionRecord | None:
        """The submission of that name."""
        return next((submitted for submitted in self.jobs if submitted.name == job), None)


def read_stored_run(store: ObjectStore, run: str, stages: Sequence[str]) -> StoredRun:
    """Everything above for one run, in a few small reads."""
    told = {stage: read_progress(store, run, stage) for stage in stages}
    return StoredRun(
        jobs=tuple(read_job_records(store, run)),
        progress={stage: progress for stage, progress in told.items() if progress is not None},
        terminal=read_terminal_records(store, run),
    )


def read_job_records(store: ObjectStore, run: str) -> list[SubmissionRecord]:
    """All submissions of a run, oldest first."""
    records = read_records(store, f"runs/{run}/jobs", JOB_KIND)
    return sorted((_parse_submission(path, record.body) for path, record in records), key=lambda s: (s.time, s.name))


def create_job_record(swap: Swap, run: str, submitted: SubmissionRecord) -> bool:
    """Record a submission where its name is still free; False where somebody has it."""
    data = canonical_json(make_record(JOB_KIND, _to_body(submitted), 0))
    return swap.swap(_make_job_path(run, submitted.name), Seen(None, None), data) is not None


def read_job_record(store: ObjectStore, run: str, name: str) -> SubmissionRecord | None:
    """One submission; None where there is none of that name."""
    path = _make_job_path(run, name)
    try:
        return _parse_submission(path, read_record(store, path, JOB_KIND))
    except ObjectMissingError:
        return None


def write_job_record(store: ObjectStore, run: str, submitted: SubmissionRecord) -> None:
    """Record what became of a submission."""
    write_record(store, _make_job_path(run, submitted.name), JOB_KIND, _to_body(submitted))


def delete_job_record(store: ObjectStore, run: str, name: str) -> None:
    """Forget a job that the cluster refused."""
    store.delete(_make_job_path(run, name))


def read_terminal_records(store: ObjectStore, run: str) -> dict[str, TerminalRecord]:
    """The terminal records of a run, by job."""
    records = read_records(store, f"runs/{run}/terminal", TERMINAL_KIND)
    return {_parse_job_name(path): _parse_terminal(record.body) for path, record in records}


def _make_job_path(run: str, name: str) -> str:
    return f"runs/{run}/jobs/{name}.json"


def _to_body(submitted: SubmissionRecord) -> dict[str, Any]:
    return asdict(submitted) | {"stages": list(submitted.stages), "overlays": list(submitted.overlays)}


def _parse_submission(path: str, body: dict[str, Any]) -> SubmissionRecord:
    try:
        lists = {"stages": tuple(body["stages"]), "overlays": tuple(body.get("overlays", ()))}
        return SubmissionRecord(**{**body, **lists})
    except (KeyError, TypeError) as error:
        raise IntegrityError("a job's record does not have the fields it should have", where=path) from error


def _parse_terminal(body: dict[str, Any]) -> TerminalRecord:
    return TerminalRecord(int(body.get("exit_code", 1)), str(body.get("what", "")), str(body.get("do", "")))


def _parse_job_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")
