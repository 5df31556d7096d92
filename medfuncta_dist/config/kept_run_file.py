"""What a run keeps beside its outputs for every room to read: runs/<name>/run.yaml, the resolved run file, and
runs/<name>/pin.json, the snapshot that it trains on."""

from __future__ import annotations

from dataclasses import dataclass

from medfuncta_dist.config.load import MAX_BYTES, parse_kept
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, ObjectMissingError, RunFileError
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore


def run_path(run: RunFile) -> str:
    """Where the kept run file lies, relative to the storage root."""
    return f"runs/{run.name}/run.yaml"


def pin_path(run: RunFile) -> str:
    """Where the snapshot is recorded that the run trains on, relative to the storage root."""
    return f"runs/{run.name}/pin.json"


@dataclass(frozen=True)
class Pin:
    """The body of ``pin.json``."""

    snapshot: str


def pinned_digest(run: RunFile, store: ObjectStore) -> str | None:
    """The snapshot that the run trains on, as its pin says; None before it began to."""
    try:
        return read_as(Pin, store, pin_path(run), "pin").snapshot
    except ObjectMissingError:
        return None


def begun_with(run: RunFile, store: ObjectStore) -> RunFile | None:
    """The run file that this run was started with; None for a new run. IntegrityError for a damaged one."""
    return read_kept(store, run.name)


def read_kept(store: ObjectStore, run_name: str) -> RunFile | None:
    """The same of a run of which only the name is known."""
    path = f"runs/{run_name}/run.yaml"
    where = store.uri(path)
    try:
        return parse_kept(store.read(path, limit=MAX_BYTES).decode(), where=where)
    except ObjectMissingError:
        return None
    except (UnicodeDecodeError, RunFileError) as error:
        what = error.what if isinstance(error, RunFileError) else "it is not text"
        do = "restore it from a backup; if the run file has not changed since, you can delete it instead"
        raise IntegrityError(f"the run's frozen run file is damaged: {what}", where=where, do=do) from error


def with_task_size(run: RunFile, store: ObjectStore) -> RunFile:
    """The run file with the number of scans per task that the run was begun with, or has chosen since.

    Itself where it gives one, and where the run has settled nothing yet.
    """
    kept = begun_with(run, store) if run.fit.task_size_open else None
    if kept is None or kept.fit.task_size_open:
        return run
    settled = {"scans_per_task": kept.fit.scans_per_task, "chosen_scans_per_task": kept.fit.chosen_scans_per_task}
    return run.model_copy(update={"fit": run.fit.model_copy(update=settled)})
