"""Taking a lease, keeping it, giving it back.

Clocks of two machines are never compared. A holder counts as dead when its heartbeat does not change for the lease's
ttl, on the monotonic clock of the process that waits. On the same machine, that process checks the holder's process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from medfuncta_dist.errors import LeaseLostError, RunHeldError
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore, ObjectState
from medfuncta_dist.storage.leases.lease import Fence, Lease, first_lease, parse_lease
from medfuncta_dist.storage.leases.lease_holder import has_ended, this_process
from medfuncta_dist.storage.object_store import ObjectStore

CHECKS_PER_TTL = 20
"""How often a waiting process checks the heartbeat within one ttl."""
RENEWAL_DEADLINE = 3
"""A heartbeat's requests end after the ttl divided by this: one that took longer than the ttl would prove nothing."""

Say = Callable[[str], None]
"""Takes one line for the user."""


class Claim:
    """A lease that this process holds."""

    def __init__(self, store: ConditionalStore, path: str, lease: Lease, state: ObjectState) -> None:
        self._store, self._path, self._lease, self._state = store, path, lease, state

    @property
    def fence(self) -> Fence:
        """The fence that writers of this driver pass."""
        return Fence(self._path, self._lease.token, self._lease.holder.id)

    @property
    def ttl(self) -> float:
        """Seconds after which it is lost without a heartbeat."""
        return self._lease.ttl

    def renew(self) -> None:
        """Write one heartbeat. LeaseLostError when another driver holds it; StorageError when that is unknown."""
        self._write(self._lease.renewed())

    def give_back(self) -> None:
        """Mark it free (the same errors)."""
        self._write(self._lease.released(), settle=False)

    def _write(self, lease: Lease, *, settle: bool = True) -> None:
        began, data = time.monotonic(), lease.to_bytes()
        state = self._store.compare_and_swap(self._path, self._state, data, settle=settle)
        if state is None:
            # The cause may be our own earlier write, whose answer was lost, or a former holder's late one: write again.
            self._state = self._require_ours()
            state = self._store.compare_and_swap(self._path, self._state, data, settle=settle)
        if state is None or (not self._store.conditional and time.monotonic() - began > lease.ttl):
            # Where conditions are ignored, a write that took so long (a stopped process) may have replaced a new
            # holder's.
            raise self.lost_error("another driver took it during a heartbeat")
        self._lease, self._state = lease, state

    def _require_ours(self) -> ObjectState:
        now = self._store.read_state(self._path)
        if now.data is None:
            raise self.lost_error("its record is gone")
        lease = parse_lease(now.data, self._where)
        if not self.fence.accepts(lease):
            raise self.lost_error(str(lease))
        return now

    def lost_error(self, why: str) -> LeaseLostError:
        """The error to raise when this lease is lost."""
        return self.fence.lost_error(self._where, why)

    @property
    def _where(self) -> str:
        return self._store.store.uri(self._path)


def take(store: ObjectStore, path: str, ttl: float, say: Say) -> Claim:
    """Take the lease at ``path``; ``say`` gets a line about each wait and takeover.

    Raises RunHeldError when a living process holds it; IntegrityError when the object is not a lease.
    """
    conditional, holder = ConditionalStore.probe(store), this_process()
    while True:
        state, former = _wait_until_vacant(conditional, path, say)
        token = first_token() if former is None else former.token + 1
        lease = first_lease(token, holder, ttl)
        taken = conditional.compare_and_swap(path, state, lease.to_bytes())
        if taken is not None:
            return Claim(conditional.with_deadline(ttl / RENEWAL_DEADLINE), path, lease, taken)
        _require_free(conditional.read_state(path), store.uri(path))


def first_token() -> int:
    """The Unix time: after somebody deleted a lease, tokens must not restart below those in former holders' records."""
    return int(time.time())


def _wait_until_vacant(conditional: ConditionalStore, path: str, say: Say) -> tuple[ObjectState, Lease | None]:
    """The state to replace: no object, a free lease, or one whose holder is dead. RunHeldError if the holder lives."""
    state = conditional.read_state(path)
    lease = None if state.data is None else parse_lease(state.data, conditional.store.uri(path))
    if lease is None or lease.free:
        return state, lease
    if not has_ended(lease.holder):
        say(f"{lease}; waiting up to {lease.ttl:g} s for its heartbeat")
        if not _is_dead(conditional, path, state, lease):
            return _wait_until_vacant(conditional, path, say)
    say(f"taking over from {lease.holder}, which {_cause_of_death(lease)}")
    return state, lease


def _cause_of_death(lease: Lease) -> str:
    return "has ended" if has_ended(lease.holder) else f"gave no heartbeat for {lease.ttl:g} s"


def _is_dead(conditional: ConditionalStore, path: str, state: ObjectState, lease: Lease) -> bool:
    """Wait up to one ttl: True when the holder died, False when it gave the lease back. RunHeldError when it lives."""
    first = time.monotonic()
    while not has_ended(lease.holder):
        time.sleep(lease.ttl / CHECKS_PER_TTL)
        asked = time.monotonic()  # before reading: if this process itself was stopped, that must not count as silence
        now = conditional.read_state(path)
        if now.data != state.data:
            _require_free(now, conditional.store.uri(path))
            return False
        if asked - first > lease.ttl:
            break
    return True


def _require_free(now: ObjectState, where: str) -> None:
    """RunHeldError if another holder has just written the lease: it is alive, then."""
    if now.data is None:
        return
    lease = parse_lease(now.data, where)
    if lease.free:
        return
    raise RunHeldError(
        f"another driver is running here: {lease}",
        where=where,
        do=f"wait for it, or stop it; if it dies, its lease can be taken over {lease.ttl:g} s later",
    )
