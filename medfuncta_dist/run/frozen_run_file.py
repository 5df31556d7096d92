"""runs/<name>/run.yaml: the resolved run file, frozen beside the outputs, and the refusal of a changed one."""

from __future__ import annotations

import secrets
from typing import Any

from medfuncta_dist.config.load import MAX_BYTES, difference, dump, parse_kept
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    CredentialsError,
    DeadlineError,
    DiskFullError,
    IntegrityError,
    ObjectMissingError,
    RunChangedError,
    RunFileError,
    StorageError,
)
from medfuncta_dist.run.resolve import resolved
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, publish_bytes, withdraw


def freeze(run: RunFile, store: ObjectStore, fence: Guard) -> tuple[RunFile, bool]:
    """Refuse a run file that differs, where it matters, from this run's frozen one; else keep it as the frozen one.

    Returns it resolved, and whether it is the run's first. LeaseLostError where ``fence`` says so.
    """
    path = run_path(run)
    frozen = _frozen(path, store)
    run = resolved(run, frozen)
    changed = difference(fixed_part(frozen), fixed_part(run)) if frozen is not None else []
    if changed:
        raise RunChangedError(
            "the run file differs from the one that this run was started with:\n  " + "\n  ".join(changed),
            where=store.uri(path),
            do="undo these changes, or give the changed run another name (data.dataset keeps the shards)",
        )
    publish_bytes(store, fence, path, dump(run).encode())
    return run, frozen is None


def thaw(run: RunFile, store: ObjectStore, fence: Guard) -> None:
    """Forget the frozen run file: the run was refused before it did anything, and its mistake may be corrected.

    So may the choice of a data set; unless something was trained on it. LeaseLostError where ``fence`` says so: the
    run may be another driver's by now.
    """
    if not any(store.list(f"runs/{run.name}/{made}") for made in ("checkpoints", "network")):
        withdraw(store, fence, pin_path(run))
    withdraw(store, fence, run_path(run))


def begun_with(run: RunFile, store: ObjectStore) -> RunFile | None:
    """The run file that this run was started with; None for a new run. IntegrityError for a damaged one."""
    return _frozen(run_path(run), store)


def _frozen(path: str, store: ObjectStore) -> RunFile | None:
    where = store.uri(path)
    try:
        return parse_kept(store.read(path, limit=MAX_BYTES).decode(), where=where)
    except ObjectMissingError:
        return None
    except (UnicodeDecodeError, RunFileError) as error:
        what = error.what if isinstance(error, RunFileError) else "it is not text"
        do = "restore it from a backup; only where the run file has not changed since, deleting it is the same"
        raise IntegrityError(f"the run's frozen run file is damaged: {what}", where=where, do=do) from error


def run_path(run: RunFile) -> str:
    """Where the frozen run file lies, relative to the storage root."""
    return f"runs/{run.name}/run.yaml"


def pin_path(run: RunFile) -> str:
    """Where the snapshot is recorded that the run trains on, relative to the storage root."""
    return f"runs/{run.name}/pin.json"


def fixed_part(run: RunFile) -> dict[str, Any]:
    """What may not change within a run, as plain values."""
    return run.parts(lambda key: key.fixed)


def require_writable(store: ObjectStore, name: str) -> None:
    """Refuse a storage that can not be written before anything is computed.

    DeadlineError when it does not answer, CredentialsError and DiskFullError as they are: the run file is right then.
    """
    probe = f"runs/{name}/.write-test-{secrets.token_hex(4)}"
    try:
        store.write(probe, b"medfuncta")
        store.delete(probe)
    except (DeadlineError, CredentialsError, DiskFullError):
        raise
    except (StorageError, OSError) as error:
        raise RunFileError(
            f"storage can not be written: {getattr(error, 'what', error)}",
            where=f"storage: {store.root}",
            do="correct storage in the run file, or its permissions (for s3://: AWS_ENDPOINT_URL and the credentials)",
        ) from error
