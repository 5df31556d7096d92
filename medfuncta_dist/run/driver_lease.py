"""One driver at a time: holds the lease of a run, or of a data set, while a block runs, renewing it in a thread."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from medfuncta_dist.errors import LeaseLostError, MedfunctaError
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.leases.lease_claim import Claim, Say, take
from medfuncta_dist.storage.object_store import ObjectStore

RENEWALS_PER_TTL = 4
"""Three may fail before another driver may take over."""
RETRY_S = 1.0
"""After a renewal that failed."""


@contextmanager
def hold_lease(store: ObjectStore, path: str, ttl: float, name: str) -> Iterator[Fence]:
    """Hold the lease at ``path`` (of ``name``, for people) and give its fence to the block.

    Raises RunHeldError while another driver holds it. When the lease is lost, or cannot be renewed for ``ttl`` seconds,
    the block is interrupted where it waits (KeyboardInterrupt, in the main thread) and ends with LeaseLostError.
    However the block ends, the lease is given back; that of a killed driver is taken over by the next.
    """

    def notify(text: str) -> None:
        print(f"[{name}] {text}", file=sys.stderr, flush=True)

    renewer = _LeaseRenewer(take(store, path, ttl, notify), notify)
    try:
        yield renewer.fence
    except (Exception, KeyboardInterrupt) as error:
        if renewer.lost is not None:
            raise renewer.lost from error
        raise
    finally:
        renewer.end()
    if renewer.lost is not None:
        raise renewer.lost


class _LeaseRenewer:
    """A daemon thread that renews a lease, whatever the main thread waits for."""

    def __init__(self, claim: Claim, notify: Say) -> None:
        self.lost: LeaseLostError | None = None
        self.fence = claim.fence
        self._claim, self._notify = claim, notify
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._interrupts = threading.current_thread() is threading.main_thread()
        if self._interrupts and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # Shells start background jobs like this: then the loss of the lease would not interrupt the main thread.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._thread = threading.Thread(target=self._renew_regularly, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop renewing, and give the lease back if it is still ours."""
        with self._ending:
            self._over.set()
        self._thread.join()
        if self.lost is None:
            with suppress(MedfunctaError):  # the next driver waits for a ttl then; nothing else depends on it
                self._claim.give_back()

    def _renew_regularly(self) -> None:
        renewed, wait = time.monotonic(), self._claim.ttl / RENEWALS_PER_TTL
        while not self._over.wait(wait):
            asked = time.monotonic()
            try:
                self._claim.renew()
            except LeaseLostError as error:
                return self._lose(error)
            except MedfunctaError as error:
                if time.monotonic() - renewed > self._claim.ttl:
                    return self._lose(
                        self._claim.lost_error(f"it could not be renewed for {self._claim.ttl:g} s: {error.what}")
                    )
                self._notify(f"the lease could not be renewed, trying again: {error.what}")
                wait = min(RETRY_S, self._claim.ttl / RENEWALS_PER_TTL)
            else:
                renewed, wait = asked, self._claim.ttl / RENEWALS_PER_TTL
        return None

    def _lose(self, error: LeaseLostError) -> None:
        self.lost = error
        with self._ending:
            if self._interrupts and not self._over.is_set():
                # A real signal, not a flag: it also wakes what waits in the system or in Ray.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
