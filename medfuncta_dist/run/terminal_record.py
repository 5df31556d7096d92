"""runs/<name>/terminal/<submission>.json: why a submitted job cannot succeed, however often it is retried.

A cluster retries a failed job blindly. An invalid run file or damaged bytes stay what they are, and hours that are used
up do, too. So the first try leaves a record, and every further try of the same submission ends at once with the same
message and the same exit code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from medfuncta_dist import errors
from medfuncta_dist.config.submission_id import submission_id
from medfuncta_dist.errors import (
    IntegrityError,
    LimitReachedError,
    MedfunctaError,
    ObjectMissingError,
    RunFileError,
)
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import NewRecord, Unfenced, publish

KIND = "terminal"
FINAL = (RunFileError.exit_code, IntegrityError.exit_code)
"""Exit codes that no retry changes."""
NO_LEASE = Unfenced(
    "a job may be refused before it has a lease; the record has its own name, and concerns no other job"
)


@contextmanager
def recording_final_failure(store: ObjectStore, name: str) -> Iterator[None]:
    """In a submitted job: raise the final error of an earlier try, or record this one's. Elsewhere: do nothing."""
    submission = submission_id()
    if submission is None:
        yield
        return
    path = f"runs/{name}/terminal/{submission}.json"
    _raise_recorded(store, path)
    try:
        yield
    except MedfunctaError as error:
        if error.exit_code in FINAL or isinstance(error, LimitReachedError):
            with suppress(MedfunctaError, OSError):  # storage itself may be at fault: then its error is the answer
                publish(store, NO_LEASE, NewRecord(path, KIND, _body(error)))
        raise


@dataclass(frozen=True)
class _Ended:
    """A record's body: an error."""

    error: str
    what: str
    where: str
    do: str
    exit_code: int


def _body(error: MedfunctaError) -> dict[str, Any]:
    return asdict(_Ended(type(error).__name__, error.what, error.where, error.do, error.exit_code))


def _raise_recorded(store: ObjectStore, path: str) -> None:
    try:
        ended = read_as(_Ended, store, path, KIND)
    except ObjectMissingError:
        return
    kind = getattr(errors, ended.error, None)
    if getattr(kind, "exit_code", None) != ended.exit_code:  # another version's class
        kind = RunFileError if ended.exit_code == RunFileError.exit_code else IntegrityError
    assert kind is not None
    raise kind(ended.what, where=ended.where, do=ended.do)
