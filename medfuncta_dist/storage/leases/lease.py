"""A lease: the record that says which driver a run (or a data set) belongs to, and the fence that keeps others out.

    runs/<name>/lease.json   datasets/<name>/lease.json     records of kind ``lease``; the generation is the token

The token rises with each taking, so a later holder's records outrank an earlier one's. A lease is never deleted, only
marked free: its token has to be remembered.
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
    """What a lease record says."""

    token: int
    holder: Holder
    beat: int
    """The heartbeat: a number that grows while the holder lives."""
    ttl: float
    """Seconds without a new beat after which the holder counts as dead, on the clock of whoever watches."""
    until: str
    """The same for people, as the holder's clock has it (UTC). Nothing decides by it."""
    free: bool
    """Given back."""

    def beaten(self) -> Lease:
        """The next heartbeat."""
        return replace(self, beat=self.beat + 1, until=_from_now(self.ttl))

    def freed(self) -> Lease:
        """Given back."""
        return replace(self, beat=self.beat + 1, until=_from_now(0), free=True)

    def to_bytes(self) -> bytes:
        """As a commit record."""
        body = {"holder": self.holder.fields(), "beat": self.beat, "ttl": self.ttl, "until": self.until}
        return canonical_json(make_record(KIND, body | {"free": self.free}, self.token))

    def __str__(self) -> str:
        if self.free:
            return f"it was given back (token {self.token})"
        return f"{self.holder} holds it until {self.until} (token {self.token})"


def run_lease(name: str) -> str:
    """Where a run's lease lies."""
    return f"runs/{name}/lease.json"


def dataset_lease(name: str) -> str:
    """Where a data set's lease lies: runs may share a data set, and only pack writes to one."""
    return f"datasets/{name}/lease.json"


def first_lease(token: int, holder: Holder, ttl: float) -> Lease:
    """A lease as it is taken."""
    return Lease(token, holder, 0, ttl, _from_now(ttl), False)


def parse_lease(data: bytes, where: str) -> Lease:
    """IntegrityError, FormatVersionError for what is no lease."""
    record = parse_record(data, KIND, where)
    body: dict[str, Any] = record.body
    try:
        holder, ttl = Holder.of(body["holder"]), float(body["ttl"])
        lease = Lease(record.generation, holder, int(body["beat"]), ttl, str(body["until"]), bool(body["free"]))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("a lease record lacks what a lease must say", where=where, do=_MEND) from error
    if not 0 < lease.ttl <= LONGEST_TTL_S:
        raise IntegrityError(f"a lease of {lease.ttl:g} s is not one of ours", where=where, do=_MEND)
    return lease


LONGEST_TTL_S = 86_400.0
_MEND = "see that no driver works on it, then delete the lease and run the command again"


@dataclass(frozen=True)
class Fence:
    """What a writer must pass before every commit record: the lease at ``path`` is still its driver's own.

    ``token`` rises with each takeover; ``holder`` is the random id of one taking. Travels to workers by pickle.
    """

    path: str
    token: int
    holder: str

    def require(self, store: ObjectStore) -> None:
        """LeaseLostError when the lease has another holder, is free or gone. One small read.

        StorageError when it can not be read: then nothing may be committed now, but nothing is lost either. Whether the
        driver goes on without proof is its heartbeat's matter.
        """
        where = store.uri(self.path)
        try:
            lease = parse_lease(store.read(self.path, limit=LARGEST_BYTES), where)
        except ObjectMissingError:
            raise self.lost(where, "its record is gone") from None
        if not self.passes(lease):
            raise self.lost(where, str(lease))

    def passes(self, lease: Lease) -> bool:
        """A record of a lower token is a former holder's belated write, which changes nothing (see ``swap.py``)."""
        return lease.token < self.token or (lease.holder.id == self.holder and not lease.free)

    def lost(self, where: str, why: str) -> LeaseLostError:
        """The error that says so."""
        return LeaseLostError(
            f"this driver's lease (token {self.token}) is over: {why}",
            where=where,
            do="leave the run to its holder; where there is none, run the same command again: it resumes",
        )


def _from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
