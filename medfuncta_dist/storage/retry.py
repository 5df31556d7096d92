"""The only layer that retries storage requests: until a deadline, with jitter, and only transient failures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, wait_exponential, wait_random_exponential

from medfuncta_dist.errors import IntegrityError, MedfunctaError, UnreachableError
from medfuncta_dist.storage.request_failures import explain, is_throttled, is_transient, retry_after_s
from medfuncta_dist.storage.request_pace import REQUEST_PACE

T = TypeVar("T")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
ATTEMPT_S = 30.0
"""One attempt may take this long, plus the time for its transfer."""
FIRST_CONTACTS = 2
"""Attempts to reach a storage that this process has not reached yet: a wrong setting does not get better by waiting."""
POD_NETWORK_S = 30.0
"""Seconds in which a new pod tries again nevertheless: its network policies may take that long to apply."""
PATIENT_S = 60.0
"""With a shorter deadline than this somebody waits for the answer: a heartbeat's lease, a driver that has to end. Then
all time counts, and a throttled process holds the request back for a quarter of its deadline at most: these are few."""
SLOWEST_BYTES_S = 2e6
"""Bytes per second. A connection that transfers fewer is given up for a new one."""


def retry_request(request: Callable[[float], T], *, where: str, deadline_s: float) -> T:
    """Call ``request(seconds left)`` until it succeeds, fails permanently, or ``deadline_s`` has passed.

    From ``PATIENT_S`` on, the time for which a throttled process holds its own requests back does not count, up to
    ``deadline_s`` of it: a request that waits behind many others has not been refused. Raises ObjectMissingError,
    DeadlineError or StorageError, naming ``where``, the attempts and the time spent. A storage that this process has
    never reached gets one short retry (UnreachableError).
    """
    started, attempts, held_back, patient = time.monotonic(), 0, 0.0, deadline_s >= PATIENT_S

    def spent() -> float:
        return time.monotonic() - started - (held_back if patient else 0.0)

    def attempt() -> T:
        nonlocal attempts, held_back
        attempts += 1
        asked = time.monotonic()
        sent = REQUEST_PACE.wait((deadline_s if patient else deadline_s / 4) - held_back)
        held_back += sent - asked
        try:
            found = request(max(deadline_s - spent(), FIRST_WAIT_S))
        except Exception as error:
            if is_throttled(error):
                REQUEST_PACE.slow_down(sent, retry_after_s(error))
            raise
        REQUEST_PACE.speed_up(sent)
        return found

    retrying = Retrying(
        retry=retry_if_exception(lambda error: _is_worth_another(error, attempts, time.monotonic() - started)),
        stop=lambda state: spent() + state.upcoming_sleep >= deadline_s,
        # Half of each wait is random: a thousand workers that a store has refused must not all return at once.
        wait=wait_exponential(FIRST_WAIT_S / 2, LONGEST_WAIT_S / 2)
        + wait_random_exponential(FIRST_WAIT_S / 2, LONGEST_WAIT_S / 2),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except MedfunctaError as error:
        place = f"{where} ({_spent(attempts, started)})" if isinstance(error, UnreachableError) else where
        raise type(error)(error.what, where=place, do=error.do) from error
    except Exception as error:
        raise explain(error, f"{where} ({_spent(attempts, started)})") from error


def _is_worth_another(error: BaseException, attempts: int, spent_s: float) -> bool:
    if isinstance(error, UnreachableError):
        in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
        return error.passing and (attempts < FIRST_CONTACTS or (in_pod and spent_s < POD_NETWORK_S))
    return is_transient(error)


def _spent(attempts: int, started: float) -> str:
    return f"{attempts} attempt{'s' if attempts > 1 else ''} in {time.monotonic() - started:.1f} s{_rank()}"


def attempt_limit_s(size: int) -> float:
    """Seconds that one attempt to move ``size`` bytes may take."""
    return ATTEMPT_S + size / SLOWEST_BYTES_S


def require_at_most(limit: int, size: int) -> None:
    """IntegrityError when an object is larger than its reader expects: it is another object."""
    if size > limit:
        what = f"an object has {size} bytes where at most {limit} were expected"
        raise IntegrityError(what, do="look at the object, and restore it from a backup")


def _rank() -> str:
    """The rank of this training worker; "" in any other process."""
    rank = os.environ.get("RANK", "")
    return f", rank {rank}" if rank.isdecimal() else ""
