"""Taking a lease, keeping it, giving it back.

Clocks of two machines are never compared. Whether a holder lives is seen by its heartbeat: one that does not move for
the lease's ttl, on the watcher's own monotonic clock, is dead. On the same machine the process itself is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from medfuncta_dist.errors import LeaseLostError, RunHeldError
from medfuncta_dist.storage.leases.compare_and_swap import Seen, Swap
from medfuncta_dist.storage.leases.lease import Fence, Lease, first_lease, parse_lease
from medfuncta_dist.storage.leases.lease_holder import has_ended, this_process
from medfuncta_dist.storage.object_store import ObjectStore

LOOKS = 20
"""A watcher looks this often within a ttl."""
PATIENCE = 3
"""A heartbeat gives up after this part of a ttl: one that takes longer than the lease lives proves nothing."""

Say = Callable[[str], None]


class Claim:
    """A lease that this process holds."""

    def __init__(self, swap: Swap, path: str, lease: Lease, seen: Seen) -> None:
        self._swap, self._path, self._lease, self._seen = swap, path, lease, seen

    @property
    def fence(self) -> Fence:
        """For writers."""
        return Fence(self._path, self._lease.token, self._lease.holder.id)

    @property
    def ttl(self) -> float:
        """Seconds that it lives without a heartbeat."""
        return self._lease.ttl

    def renew(self) -> None:
        """One heartbeat. LeaseLostError when it has another holder; StorageError when that can not be known."""
        self._put(self._lease.beaten())

    def give_back(self) -> None:
        """Mark it free (the same errors)."""
        self._put(self._lease.freed(), settle=False)

    def _put(self, lease: Lease, *, settle: bool = True) -> None:
        began, data = time.monotonic(), lease.to_bytes()
        seen = self._swap.swap(self._path, self._seen, data, settle=settle)
        if seen is None:
            # Our own earlier write, whose answer was lost, or a former holder's belated one: put it right.
            self._seen = self._still_ours()
            seen = self._swap.swap(self._path, self._seen, data, settle=settle)
        if seen is None or (not self._swap.conditional and time.monotonic() - began > lease.ttl):
            # Where conditions are ignored, a write that took so long (a stopped process) may have hit a new holder's.
            raise self.lost("it changed hands while being renewed")
        self._lease, self._seen = lease, seen

    def _still_ours(self) -> Seen:
        now = self._swap.look(self._path)
        if now.data is None:
            raise self.lost("its record is gone")
        lease = parse_lease(now.data, self._where)
        if not self.fence.passes(lease):
            raise self.lost(str(lease))
        return now

    def lost(self, why: str) -> LeaseLostError:
        """The error of one that is over."""
        return self.fence.lost(self._where, why)

    @property
    def _where(self) -> str:
        return self._swap.store.uri(self._path)


def take(store: ObjectStore, path: str, ttl: float, say: Say) -> Claim:
    """Take the lease at ``path``; ``say`` is told about waiting and takeovers.

    Raises RunHeldError when a living process holds it; IntegrityError when what is there is not a lease.
    """
    swap, holder = Swap.of(store), this_process()
    while True:
        seen, former = _vacant(swap, path, say)
        token = first_token() if former is None else former.token + 1
        lease = first_lease(token, holder, ttl)
        taken = swap.swap(path, seen, lease.to_bytes())
        if taken is not None:
            return Claim(swap.within(ttl / PATIENCE), path, lease, taken)
        _require_free(swap.look(path), store.uri(path))


def first_token() -> int:
    """The Unix time: a lease that someone deleted must not begin below the tokens of its former holders' records."""
    return int(time.time())


def _vacant(swap: Swap, path: str, say: Say) -> tuple[Seen, Lease | None]:
    """The state to replace: none, a free lease, or one whose holder is dead."""
    seen, where = swap.look(path), swap.store.uri(path)
    lease = None if seen.data is None else parse_lease(seen.data, where)
    if lease is None or lease.free:
        return seen, lease
    if not has_ended(lease.holder):
        say(f"{lease}; waiting up to {lease.ttl:g} s for its heartbeat")
        if not _is_silent(swap, path, seen, lease):
            return _vacant(swap, path, say)
    say(f"taking over from {lease.holder}, which {_end(lease)}")
    return seen, lease


def _end(lease: Lease) -> str:
    return "has ended" if has_ended(lease.holder) else f"gave no heartbeat for {lease.ttl:g} s"


def _is_silent(swap: Swap, path: str, seen: Seen, lease: Lease) -> bool:
    """Whether the holder is gone without a word; False when it has given the lease back. RunHeldError when it lives."""
    first = time.monotonic()
    while not has_ended(lease.holder):
        time.sleep(lease.ttl / LOOKS)
        asked = time.monotonic()  # before looking: however long this process itself stood still, nothing came by then
        now = swap.look(path)
        if now.data != seen.data:
            _require_free(now, swap.store.uri(path))
            return False
        if asked - first > lease.ttl:
            break
    return True


def _require_free(now: Seen, where: str) -> None:
    """RunHeldError when what is there was just written by another holder, who is alive therefore."""
    if now.data is None:
        return
    lease = parse_lease(now.data, where)
    if lease.free:
        return
    raise RunHeldError(
        f"another driver is at work here: {lease}, and renews that while it lives",
        where=where,
        do=f"wait for it or end it; a driver that died is taken over after {lease.ttl:g} s",
    )
