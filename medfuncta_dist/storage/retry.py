"""The only layer that retries storage requests: until a deadline, with jitter, and only what can pass by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential, wait_random_exponential

from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.storage.request_failures import explain, is_passing, is_throttled, wanted_pause_s
from medfuncta_dist.storage.request_pace import PACE

T = TypeVar("T")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
ATTEMPT_S = 30.0
"""One attempt may take this long, and its transfer on top."""
SLOWEST_BYTES_S = 2e6
"""Transfers get their size at this rate (bytes a second): below it a connection is given up for a new one."""


def persist(request: Callable[[float], T], *, where: str, deadline_s: float) -> T:
    """Call ``request(seconds left)`` until it succeeds, fails for good, or ``deadline_s`` is over.

    Raises ObjectMissingError, DeadlineError or StorageError, naming ``where``, the attempts and the time spent.
    """
    started, attempts = time.monotonic(), 0

    def attempt() -> T:
        nonlocal attempts
        attempts += 1
        PACE.turn(deadline_s - (time.monotonic() - started))
        try:
            found = request(max(deadline_s - (time.monotonic() - started), FIRST_WAIT_S))
        except Exception as error:
            if is_throttled(error):
                PACE.refused(wanted_pause_s(error))
            raise
        PACE.answered()
        return found

    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_before_delay(deadline_s),
        # Half of each wait is by chance: a thousand workers that a store has refused must not come back as one.
        wait=wait_exponential(FIRST_WAIT_S / 2, LONGEST_WAIT_S / 2)
        + wait_random_exponential(FIRST_WAIT_S / 2, LONGEST_WAIT_S / 2),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except MedfunctaError as error:
        raise type(error)(error.what, where=where, do=error.do) from error
    except Exception as error:
        spent = f"{attempts} attempt{'s' if attempts > 1 else ''} in {time.monotonic() - started:.1f} s"
        raise explain(error, f"{where} ({spent}{_rank()})") from error


def attempt_s(size: int) -> float:
    """Seconds that one attempt to move ``size`` bytes may take."""
    return ATTEMPT_S + size / SLOWEST_BYTES_S


def refuse_above(limit: int, size: int) -> None:
    """IntegrityError when an object is larger than its reader can expect: it is not what should be there."""
    if size > limit:
        what = f"an object has {size} bytes where at most {limit} were expected"
        raise IntegrityError(what, do="see what lies there, and restore the object from a backup")


def _rank() -> str:
    """Which of the training workers this is; "" in any other process."""
    rank = os.environ.get("RANK", "")
    return f", rank {rank}" if rank.isdecimal() else ""
