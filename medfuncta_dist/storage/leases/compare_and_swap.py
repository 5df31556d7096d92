"""Compare and swap: replace a small object only while it is what was read.

Exact where the store honours conditional writes, which is tried once per store. Elsewhere the next-best: read, write,
wait longer than that took, read again, and whoever wrote last has won. There, a writer that is held up between its read
and its write for longer than the winner waited can still overwrite it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from medfuncta_dist.errors import DeadlineError, ObjectMissingError, StorageError
from medfuncta_dist.storage.object_store import ObjectStore

LARGEST_BYTES = 64 * 2**10
SETTLE_S = 0.5
"""The least wait before a write counts where conditions are ignored; longer than many times a round trip."""
SETTLE_TRIPS = 4.0
"""... and at least so many times what the read and the write took."""


@dataclass(frozen=True)
class Seen:
    """An object's bytes and the tag of that state; both None where there was none."""

    data: bytes | None
    tag: str | None


@dataclass(frozen=True)
class Swap:
    """Compare and swap in one store, of which is known whether it honours conditional writes."""

    store: ObjectStore
    conditional: bool

    @classmethod
    def of(cls, store: ObjectStore) -> Swap:
        """Tries it."""
        return cls(store, honours_conditions(store))

    def within(self, seconds: float) -> Swap:
        """The same with another deadline for each request."""
        return Swap(ObjectStore(self.store.root, deadline_s=seconds), self.conditional)

    def look(self, path: str) -> Seen:
        """What is there now; StorageError for more than LARGEST_BYTES."""
        try:
            return Seen(*self.store.read_tagged(path, limit=LARGEST_BYTES))
        except ObjectMissingError:
            return Seen(None, None)

    def swap(self, path: str, seen: Seen, data: bytes, *, settle: bool = True) -> Seen | None:
        """Put ``data`` in the place of ``seen``: the new state, or None when something else is there.

        ``settle=False`` for a write that need not be sure of itself: it does not wait where conditions are ignored.
        """
        if self.conditional:
            tag = self.store.write_if(path, data, seen.tag)
            # A write whose answer was lost is refused when it is sent again: what is there now decides.
            return self._own(path, data) if tag is None else Seen(data, tag)
        began = time.monotonic()
        if self.look(path).data != seen.data:
            return None
        self.store.write(path, data)
        if settle:
            time.sleep(max(SETTLE_S, SETTLE_TRIPS * (time.monotonic() - began)))
        return self._own(path, data)

    def _own(self, path: str, data: bytes) -> Seen | None:
        now = self.look(path)
        return now if now.data == data else None


def honours_conditions(store: ObjectStore) -> bool:
    """Try it: an object that is there must not be created, nor replaced in a state that it is not in."""
    path, swap = f".condition-test-{secrets.token_hex(8)}", Swap(store, conditional=True)
    try:
        # Through a swap, where a write must succeed: one whose answer was lost is no sign of a lesser store.
        first = swap.swap(path, Seen(None, None), b"first")
        refused = first is not None and store.write_if(path, b"second", None) is None
        refused = refused and store.write_if(path, b"third", '"0123456789abcdef0123456789abcdef"') is None
        return refused and first is not None and swap.swap(path, first, b"fourth") is not None
    except DeadlineError:
        raise
    except StorageError:  # "not implemented"
        return False
    finally:
        store.delete(path)
