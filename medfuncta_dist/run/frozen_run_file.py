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

FIXED = ("data", "field", "meta", "train", "fit")
# Keys of the fixed sections that change nothing in the outputs: where the state lives, how often it is saved or
# looked at, and which files hold the owner's secrets.
FREE = {
    "data": {"private", "max_quarantined", "sources_per_task", "snapshot"},
    "train": {
        "zero_stage",
        "checkpoint_steps",
        "checkpoint_minutes",
        "node_hours_between_failures",
        "keep_checkpoints",
        "keep_checkpoint_hours",
        "max_failures",
        "max_preemptions",
        "hang_timeout",
    },
    "fit": {"splits"},
}


def freeze(run: RunFile, store: ObjectStore) -> tuple[RunFile, bool]:
    """Refuse a run file that differs, where it matters, from this run's frozen one; else keep it as the frozen one.

    Returns it resolved, and whether it is the run's first.
    """
    path = _path(run)
    frozen = _frozen(path, store)
    run = resolved(run, frozen)
    changed = difference(fixed_part(frozen), fixed_part(run)) if frozen is not None else []
    if changed:
        raise RunChangedError(
            "the run file differs from the one that this run was started with:\n  " + "\n  ".join(changed),
            where=store.uri(path),
            do="undo these changes, or give the changed run another name (data.dataset keeps the shards)",
        )
    store.write(path, dump(run).encode())
    return run, frozen is None


def thaw(run: RunFile, store: ObjectStore) -> None:
    """Forget the frozen run file: the run was refused before it did anything, and its mistake may be corrected.

    So may the choice of a data set; unless something was trained on it.
    """
    if not any(store.list(f"runs/{run.name}/{made}") for made in ("checkpoints", "network")):
        store.delete(pin_path(run))
    store.delete(_path(run))


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


def _path(run: RunFile) -> str:
    return f"runs/{run.name}/run.yaml"


def pin_path(run: RunFile) -> str:
    """Where the snapshot is recorded that the run trains on, relative to the storage root."""
    return f"runs/{run.name}/pin.json"


def fixed_part(run: RunFile) -> dict[str, Any]:
    """What may not change within a run, as plain values."""
    whole = run.model_dump(mode="json")
    return {s: {k: v for k, v in whole[s].items() if k not in FREE.get(s, ())} for s in FIXED}


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
