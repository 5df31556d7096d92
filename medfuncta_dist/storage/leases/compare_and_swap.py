"""Compare and swap: replace a small object only if it is still what was read.

Exact where the store honours conditional writes, which is tested once per store. Other stores get an approximation:
read, write, wait longer than that took, read again; whoever wrote last has won. There, a writer that is held up between
its read and its write for longer than the winner waited can still overwrite it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from medfuncta_dist.errors import DeadlineError, ObjectMissingError, StorageError, UnreachableError
from medfuncta_dist.storage.object_store import ObjectStore

LARGEST_BYTES = 64 * 2**10
SETTLE_S = 0.5
"""The shortest wait before a write counts, where conditions are ignored; many times a round trip."""
SETTLE_TRIPS = 4.0
"""The wait is also at least this many times as long as the read and the write took."""


@dataclass(frozen=True)
class ObjectState:
    """An object's bytes and the tag of that state; both None if there is no object."""

    data: bytes | None
    tag: str | None


MISSING = ObjectState(None, None)


@dataclass(frozen=True)
class ConditionalStore:
    """Compare and swap in one store; ``conditional`` is whether it honours conditional writes."""

    store: ObjectStore
    conditional: bool

    @classmethod
    def probe(cls, store: ObjectStore) -> ConditionalStore:
        """Test whether the store honours conditional writes."""
        return cls(store, honours_conditions(store))

    def with_deadline(self, seconds: float) -> ConditionalStore:
        """The same store with another deadline for each request."""
        return ConditionalStore(ObjectStore(self.store.root, deadline_s=seconds), self.conditional)

    def read_state(self, path: str) -> ObjectState:
        """The object as it is now; StorageError if it has more than LARGEST_BYTES."""
        try:
            return ObjectState(*self.store.read_tagged(path, limit=LARGEST_BYTES))
        except ObjectMissingError:
            return MISSING

    def compare_and_swap(
        self, path: str, expected: ObjectState, data: bytes, *, settle: bool = True
    ) -> ObjectState | None:
        """Replace ``expected`` by ``data``. Returns the new state; None if the object is not in the expected one.

        ``settle=False`` skips the wait where conditions are ignored, for a write that need not be certain.
        """
        if self.conditional:
            tag = self.store.write_if(path, data, expected.tag)
            # A write that is sent again because its answer was lost is refused: what is there now decides.
            return self._confirm(path, data) if tag is None else ObjectState(data, tag)
        began = time.monotonic()
        if self.read_state(path).data != expected.data:
            return None
        self.store.write(path, data)
        if settle:
            time.sleep(max(SETTLE_S, SETTLE_TRIPS * (time.monotonic() - began)))
        return self._confirm(path, data)

    def _confirm(self, path: str, data: bytes) -> ObjectState | None:
        now = self.read_state(path)
        return now if now.data == data else None


def honours_conditions(store: ObjectStore) -> bool:
    """Try it: an existing object must not be created again, nor replaced in a state that it is not in."""
    path, trial = f".condition-test-{secrets.token_hex(8)}", ConditionalStore(store, conditional=True)
    try:
        # Writes that must succeed go through compare_and_swap: a lost answer does not mean that conditions are ignored.
        first = trial.compare_and_swap(path, MISSING, b"first")
        refused = first is not None and store.write_if(path, b"second", None) is None
        refused = refused and store.write_if(path, b"third", '"0123456789abcdef0123456789abcdef"') is None
        return refused and first is not None and trial.compare_and_swap(path, first, b"fourth") is not None
    except (DeadlineError, UnreachableError):
        raise
    except StorageError:  # "not implemented"
        return False
    finally:
        store.delete(path)
