"""The one door to what others take as decided: commit records, the frozen run file, summaries and reports.

Data objects (shards, parts, checkpoint files, a network's files) lie under names that no two writers share, and are
nothing until a record names them: they are written with ``store.write``. What makes them exist, or is itself read as
the truth under a fixed name, is written here, right after a look at the lease: a driver that lost it decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.commit_record import LARGEST_RECORD, make_record
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.leases.compare_and_swap import Seen, Swap
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True)
class Unfenced:
    """In a fence's place where a writer has no lease by design; ``reason`` says why that is safe."""

    reason: str
    token: ClassVar[int] = 0
    """Below every lease's token."""

    def require(self, store: ObjectStore) -> None:
        """Nothing to prove."""


Guard = Fence | Unfenced
"""What a writer shows at the door. Travels to workers by pickle."""

ALONE = Unfenced("the caller sees to it that nobody else works on this run or data set")
"""For a program that calls a stage's driver itself. The command line, and every job, holds a lease instead."""


@dataclass(frozen=True)
class NewRecord:
    """A commit record to be written. Everything that ``body`` names must be in storage before."""

    path: str
    kind: str
    body: dict[str, Any]
    generation: int = 0

    def to_bytes(self, where: str) -> bytes:
        """As it is stored; MedfunctaError when that is more than a reader accepts."""
        data = canonical_json(make_record(self.kind, self.body, self.generation))
        if len(data) > LARGEST_RECORD:
            raise MedfunctaError(
                f"a {self.kind} record of {len(data)} bytes is larger than a reader accepts ({LARGEST_RECORD})",
                where=where,
                do="give each task less to do: data.sources_per_task, fit.scans_per_task",
            )
        return data


def publish(store: ObjectStore, fence: Guard, record: NewRecord) -> None:
    """Write a commit record. LeaseLostError, and nothing is written, where ``fence`` says so."""
    publish_bytes(store, fence, record.path, record.to_bytes(store.uri(record.path)))


def publish_bytes(store: ObjectStore, fence: Guard, path: str, data: bytes) -> None:
    """Likewise what is no record: the run file, figures, a report."""
    fence.require(store)
    store.write(path, data)


def publish_first(swap: Swap, record: NewRecord) -> bool:
    """Write a record where there is none of its name, and where nobody can hold a lease: the condition decides.

    False, and nothing is written, where somebody was faster.
    """
    return swap.swap(record.path, Seen(None, None), record.to_bytes(swap.store.uri(record.path))) is not None


def withdraw(store: ObjectStore, fence: Guard, path: str) -> None:
    """Remove what was published. LeaseLostError, and nothing is removed, where ``fence`` says so."""
    fence.require(store)
    store.delete(path)
