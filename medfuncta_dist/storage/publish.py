"""The only way to write what others take as decided: commit records, the frozen run file, summaries and reports.

Data objects (shards, parts, checkpoint files, a network's files) have names that no two writers share, and do not count
until a record names them: they are written with ``store.write``. The record that makes them count, and whatever is read
under a fixed name, is written here, right after the lease is checked: a driver that lost its lease decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.commit_record import FORMAT_VERSION, LARGEST_RECORD, make_record
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.leases.compare_and_swap import MISSING, ConditionalStore
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True)
class Unfenced:
    """Takes the place of a fence for a writer that has no lease by design; ``reason`` says why that is safe."""

    reason: str
    token: ClassVar[int] = 0
    """Below every lease's token."""

    def require(self, store: ObjectStore) -> None:
        """Nothing to prove."""


Guard = Fence | Unfenced
"""A writer's proof that it may publish. Sent to workers by pickle."""

ALONE = Unfenced("the caller makes sure that nobody else works on this run or data set")
"""For a program that calls a stage's driver itself. The command line, and every job, holds a lease instead."""


@dataclass(frozen=True)
class NewRecord:
    """A commit record to write. Everything that ``body`` names must already be in storage."""

    path: str
    kind: str
    body: dict[str, Any]
    generation: int = 0
    version: int = FORMAT_VERSION

    def to_bytes(self, where: str) -> bytes:
        """The bytes to store; MedfunctaError when they are more than a reader accepts."""
        data = canonical_json(make_record(self.kind, self.body, self.generation, self.version))
        if len(data) > LARGEST_RECORD:
            raise MedfunctaError(
                f"a {self.kind} record of {len(data)} bytes is larger than a reader accepts ({LARGEST_RECORD})",
                where=where,
                do="give each task less work: lower data.sources_per_task or fit.scans_per_task",
            )
        return data


def publish(store: ObjectStore, fence: Guard, record: NewRecord) -> None:
    """Write a commit record. LeaseLostError, and nothing is written, if the lease of ``fence`` is lost."""
    publish_bytes(store, fence, record.path, record.to_bytes(store.uri(record.path)))


def publish_bytes(store: ObjectStore, fence: Guard, path: str, data: bytes) -> None:
    """The same for what is not a commit record: the run file, a summary, a report."""
    fence.require(store)
    store.write(path, data)


def publish_first(conditional: ConditionalStore, record: NewRecord) -> bool:
    """Write a record without a lease, only if there is none under its name: of two writers, one succeeds.

    Returns False, and writes nothing, if there is a record already.
    """
    data = record.to_bytes(conditional.store.uri(record.path))
    return conditional.compare_and_swap(record.path, MISSING, data) is not None


def withdraw(store: ObjectStore, fence: Guard, path: str) -> None:
    """Remove what was published. LeaseLostError, and nothing is removed, if the lease of ``fence`` is lost."""
    fence.require(store)
    store.delete(path)
