"""One driver at a time: a run, or a data set, is held while a block runs, with a heartbeat in the background."""

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

BEATS = 4
"""Heartbeats a ttl: three may fail before anyone else may take over."""
RETRY_S = 1.0
"""After a heartbeat that failed."""


@contextmanager
def holding(store: ObjectStore, path: str, ttl: float, name: str) -> Iterator[Fence]:
    """Hold the lease at ``path`` (of ``name``, for people) and give its fence to the block.

    Raises RunHeldError when another driver lives. When the lease is lost, or can not be proved for ``ttl`` seconds, the
    block is interrupted where it waits (KeyboardInterrupt, in the main thread) and ends with LeaseLostError. However
    the block ends the lease is given back; a driver that is killed leaves it to be taken over.
    """

    def say(text: str) -> None:
        print(f"[{name}] {text}", file=sys.stderr, flush=True)

    keeper = _Keeper(take(store, path, ttl, say), say)
    try:
        yield keeper.fence
    except (Exception, KeyboardInterrupt) as error:
        if keeper.lost is not None:
            raise keeper.lost from error
        raise
    finally:
        keeper.end()
    if keeper.lost is not None:
        raise keeper.lost


class _Keeper:
    """A daemon thread that keeps a lease alive, whatever the main thread waits for."""

    def __init__(self, claim: Claim, say: Say) -> None:
        self.lost: LeaseLostError | None = None
        self.fence = claim.fence
        self._claim, self._say = claim, say
        self._over, self._ending = threading.Event(), threading.Lock()
        self._interrupts = threading.current_thread() is threading.main_thread()
        if self._interrupts and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As a shell starts what it puts into the background: then a loss would interrupt nothing.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the heartbeat and give the lease back, if it is still ours to give."""
        with self._ending:
            self._over.set()
        self._thread.join()
        if self.lost is None:
            with suppress(MedfunctaError):  # whoever comes next waits for a ttl; what was done is done
                self._claim.give_back()

    def _keep(self) -> None:
        proved, wait = time.monotonic(), self._claim.ttl / BEATS
        while not self._over.wait(wait):
            asked = time.monotonic()
            try:
                self._claim.renew()
            except LeaseLostError as error:
                return self._lose(error)
            except MedfunctaError as error:
                if time.monotonic() - proved > self._claim.ttl:
                    return self._lose(
                        self._claim.lost_error(f"it could not be proved for {self._claim.ttl:g} s: {error.what}")
                    )
                self._say(f"the lease could not be renewed, trying again: {error.what}")
                wait = min(RETRY_S, self._claim.ttl / BEATS)
            else:
                proved, wait = asked, self._claim.ttl / BEATS
        return None

    def _lose(self, error: LeaseLostError) -> None:
        self.lost = error
        with self._ending:
            if self._interrupts and not self._over.is_set():
                # A real signal, not a flag: it also wakes what waits in the system or in Ray.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
