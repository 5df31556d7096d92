"""One driver per run: who holds a lease, and the fence that a former holder can not pass.

runs/<name>/lease.json   datasets/<name>/lease.json     commit records of kind ``lease``; the generation is the token
"""

from __future__ import annotations

from dataclasses import dataclass

from medfuncta_dist.errors import LeaseLostError, ObjectMissingError
from medfuncta_dist.storage.commit import Record, parse_record
from medfuncta_dist.storage.object_store import ObjectStore

KIND = "lease"
LARGEST_LEASE = 64 * 2**10


@dataclass(frozen=True)
class Fence:
    """What a writer must pass before every commit record: the lease at ``path`` is still its driver's own.

    ``token`` rises with each takeover; ``holder`` is the random id of one taking. Travels to workers by pickle.
    """

    path: str
    token: int
    holder: str

    def require(self, store: ObjectStore) -> None:
        """LeaseLostError unless the lease object still has this token and holder. One small read."""
        try:
            record = read_lease(store, self.path)
        except ObjectMissingError:
            record = None
        if record is None or (record.generation, record.body.get("holder")) != (self.token, self.holder):
            raise LeaseLostError(
                f"this driver's lease (token {self.token}) is over: {_now(record)}",
                where=store.uri(self.path),
                do="leave the run to its new holder; `status` shows it, and running the same command later resumes",
            )


def read_lease(store: ObjectStore, path: str) -> Record:
    """The verified lease (ObjectMissingError, IntegrityError, FormatVersionError)."""
    return parse_record(store.read(path, limit=LARGEST_LEASE), KIND, store.uri(path))


def _now(record: Record | None) -> str:
    if record is None:
        return "its record is gone"
    body = record.body
    if body.get("free"):
        return f"it was given back (token {record.generation})"
    return f"process {body.get('pid')} on {body.get('host')} holds it now (token {record.generation})"
