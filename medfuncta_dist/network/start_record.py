"""runs/<name>/start/commit.json: the network that a run starts from (kind "start", {"digest": <network digest>}).

Its two files lie beside the record, under the digest. They are a copy: once the record is written, the run it came from
may change or go.
"""

from __future__ import annotations

from dataclasses import dataclass

from medfuncta_dist.errors import ObjectMissingError
from medfuncta_dist.fields.network_record import RECORD_FILE
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore

KIND = "start"


@dataclass(frozen=True)
class Start:
    """The record's body."""

    digest: str


def start_folder(run: str) -> str:
    """Folder of the network that a run starts from, relative to the storage root."""
    return f"runs/{run}/start"


def start_path(run: str) -> str:
    """Path of its commit record, relative to the storage root."""
    return f"{start_folder(run)}/{RECORD_FILE}"


def started_from(store: ObjectStore, run: str) -> str | None:
    """Digest of the network that a run has started from; None where it has taken none. IntegrityError if damaged."""
    try:
        return read_as(Start, store, start_path(run), KIND).digest
    except ObjectMissingError:
        return None
