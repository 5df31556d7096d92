"""runs/<name>/run.yaml: the resolved run file, frozen beside the outputs, and the refusal of a changed one."""

from __future__ import annotations

import secrets
from typing import Any

from medfuncta_dist.config.kept_run_file import begun_with as begun_with
from medfuncta_dist.config.kept_run_file import pin_path as pin_path
from medfuncta_dist.config.kept_run_file import run_path as run_path
from medfuncta_dist.config.load import difference, dump
from medfuncta_dist.config.presets import SIRENS_OF
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    CredentialsError,
    DeadlineError,
    DiskFullError,
    RunChangedError,
    RunFileError,
    StorageError,
    UnreachableError,
)
from medfuncta_dist.network.start_record import start_path
from medfuncta_dist.run.more_steps import (
    only_horizon_differs,
    require_trained_within,
    same_schedule,
    way_to_other_steps,
    without_steps,
)
from medfuncta_dist.run.settled_keys import as_begun
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, publish_bytes, withdraw


def freeze(run: RunFile, store: ObjectStore, fence: Guard) -> tuple[RunFile, bool]:
    """Refuse a run file that differs in a fixed key from this run's frozen one; otherwise it becomes the frozen one.

    Returns the resolved run file, and whether it is the first of this run. LeaseLostError where the lease was lost.
    Steps may be added, as the schedule allows (``run/more_steps.py``).
    """
    path = run_path(run)
    frozen = begun_with(run, store)
    run = as_begun(run, frozen)
    if frozen is not None:
        if not difference(without_steps(fixed_part(frozen)), without_steps(fixed_part(run))):
            require_trained_within(frozen, run, store)
        _require_unchanged(frozen, run, store.uri(path))
    publish_bytes(store, fence, path, dump(run).encode())
    return run, frozen is None


def _require_unchanged(frozen: RunFile, run: RunFile, where: str) -> None:
    changed = difference(*_compared(frozen, run))
    if changed:
        raise RunChangedError(
            "the run file differs from the one that this run was started with:\n  " + "\n  ".join(changed),
            where=where,
            do=way_out(frozen, run),
        )


def way_out(frozen: RunFile, run: RunFile) -> str:
    """What to do about a run file that differs in fixed keys from the one that the run was started with."""
    if only_horizon_differs(fixed_part(frozen), fixed_part(run)):
        return way_to_other_steps(frozen.train, run.train)
    rename = "give the changed run another name (data.dataset keeps the shards)"
    siren = SIRENS_OF.get(run.preset or "")
    of_siren, of_basis = frozen.preset in (run.preset, siren), (frozen.field.kind, run.field.kind) == ("siren", "basis")
    if siren is not None and of_siren and of_basis:
        return (
            f"preset {run.preset} was a SIREN in earlier versions and is a basis field now: write preset: {siren} to "
            f"continue this run, or {rename}"
        )
    return f"undo these changes, or {rename}"


def thaw(run: RunFile, store: ObjectStore, fence: Guard) -> None:
    """Delete the frozen run file: the run was refused before it did anything, so the run file may be corrected.

    So may the choice of a snapshot and of a network to start from, unless something was trained. LeaseLostError where
    the lease was lost: the run may belong to another driver by now.
    """
    if not any(store.list(f"runs/{run.name}/{folder}") for folder in ("checkpoints", "network")):
        for path in (pin_path(run), start_path(run.name)):
            withdraw(store, fence, path)
    withdraw(store, fence, run_path(run))


def _compared(frozen: RunFile, run: RunFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """What may not differ: all that is fixed, but the number of steps where the schedule is the same."""
    parts = fixed_part(frozen), fixed_part(run)
    if not same_schedule(frozen.train, run.train):
        return parts
    return without_steps(parts[0]), without_steps(parts[1])


def fixed_part(run: RunFile) -> dict[str, Any]:
    """What may not change within a run, as plain values."""
    return run.parts(lambda key: key.fixed)


def require_writable(store: ObjectStore, name: str) -> None:
    """Refuse storage that cannot be written, before anything is computed.

    DeadlineError or UnreachableError when it does not answer, CredentialsError and DiskFullError as they are: the run
    file is right then.
    """
    probe = f"runs/{name}/.write-test-{secrets.token_hex(4)}"
    try:
        store.write(probe, b"medfuncta")
        store.delete(probe)
    except (DeadlineError, UnreachableError, CredentialsError, DiskFullError):
        raise
    except (StorageError, OSError) as error:
        raise RunFileError(
            f"storage cannot be written: {getattr(error, 'what', error)}",
            where=f"storage: {store.root}",
            do="correct storage in the run file, or its permissions (for s3://: AWS_ENDPOINT_URL and the credentials)",
        ) from error
