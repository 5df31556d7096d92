"""A lease: the record of which driver a run (or a data set) belongs to, and the fence that keeps other drivers out.

    runs/<name>/lease.json   datasets/<name>/lease.json     records of kind ``lease``; the generation is the token

The token rises each time the lease is taken, so a later holder's records outrank an earlier one's. A lease is never
deleted, only marked free, because its token must be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from medfuncta_dist.errors import IntegrityError, LeaseLostError, ObjectMissingError
from medfuncta_dist.storage.commit_record import make_record, parse_record
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.leases.compare_and_swap import LARGEST_BYTES
from medfuncta_dist.storage.leases.lease_holder import Holder
from medfuncta_dist.storage.object_store import ObjectStore

KIND = "lease"


@dataclass(frozen=True)
class Lease:
    """The content of a lease record."""

    token: int
    holder: Holder
    beat: int
    """The heartbeat: a number that grows while the holder lives."""
    ttl: float
    """Seconds without a new beat after which the holder counts as dead, measured by whoever waits for it."""
    until: str
    """The same as a time of day for people, by the holder's clock (UTC). No decision uses it."""
    free: bool
    """Whether it was given back."""

    def renewed(self) -> Lease:
        """The lease with its next heartbeat."""
        return replace(self, beat=self.beat + 1, until=_from_now(self.ttl))

    def released(self) -> Lease:
        """The lease, marked free."""
        return replace(self, beat=self.beat + 1, until=_from_now(0), free=True)

    def to_bytes(self) -> bytes:
        """As a commit record."""
        body = {"holder": self.holder.fields(), "beat": self.beat, "ttl": self.ttl, "until": self.until}
        return canonical_json(make_record(KIND, body | {"free": self.free}, self.token))

    def __str__(self) -> str:
        if self.free:
            return f"it was released (token {self.token})"
        return f"{self.holder} holds it until {self.until} (token {self.token})"


def run_lease(name: str) -> str:
    """Path of a run's lease."""
    return f"runs/{name}/lease.json"


def dataset_lease(name: str) -> str:
    """Path of a data set's lease: runs may share a data set, and only pack writes to one."""
    return f"datasets/{name}/lease.json"


def first_lease(token: int, holder: Holder, ttl: float) -> Lease:
    """A lease that was taken just now."""
    return Lease(token, holder, 0, ttl, _from_now(ttl), False)


def parse_lease(data: bytes, where: str) -> Lease:
    """A lease from its bytes; IntegrityError or FormatVersionError if they are not a lease."""
    record = parse_record(data, KIND, where)
    body: dict[str, Any] = record.body
    try:
        holder, ttl = Holder.of(body["holder"]), float(body["ttl"])
        lease = Lease(record.generation, holder, int(body["beat"]), ttl, str(body["until"]), bool(body["free"]))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            "a lease record lacks a field, or has a field of the wrong type", where=where, do=_DELETE
        ) from error
    if not 0 < lease.ttl <= LONGEST_TTL_S:
        raise IntegrityError(f"a lease of {lease.ttl:g} s was not written by medfuncta-dist", where=where, do=_DELETE)
    return lease


LONGEST_TTL_S = 86_400.0
_DELETE = "make sure that no driver is running, then delete the lease and run the command again"


@dataclass(frozen=True)
class Fence:
    """The check before every commit record: the lease at ``path`` still belongs to the writer's driver.

    ``token`` rises with each takeover; ``holder`` is the random id of one holder. Sent to workers by pickle.
    """

    path: str
    token: int
    holder: str

    def require(self, store: ObjectStore) -> None:
        """LeaseLostError when the lease has another holder, is free or gone. One small read.

        StorageError when it cannot be read: then nothing may be committed now, but the lease is not lost either. The
        heartbeat decides how long the driver goes on without this proof.
        """
        where = store.uri(self.path)
        try:
            lease = parse_lease(store.read(self.path, limit=LARGEST_BYTES), where)
        except ObjectMissingError:
            raise self.lost_error(where, "its record is gone") from None
        if not self.accepts(lease):
            raise self.lost_error(where, str(lease))

    def accepts(self, lease: Lease) -> bool:
        """Whether the lease is still ours. A lower token is a former holder's late write, and changes nothing."""
        return lease.token < self.token or (lease.holder.id == self.holder and not lease.free)

    def lost_error(self, where: str, why: str) -> LeaseLostError:
        """The error to raise when the lease is no longer ours."""
        return LeaseLostError(
            f"this driver no longer holds its lease (token {self.token}): {why}",
            where=where,
            do="let the new holder finish; if there is none, run the same command again: it resumes",
        )


def _from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
