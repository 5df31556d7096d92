"""A driver, as far as a lease sees one: holds it, and commits numbered records while it can. Prints what happens."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import count, takewhile
from typing import Any

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import NewRecord, publish

NAME = "raced"


def drive(root: str, ttl: float, go_on: Callable[[int], bool]) -> str:
    """Commit records, 20 a second, while ``go_on(number)``; the outcome in one word."""
    store = ObjectStore(root)
    try:
        with hold_lease(store, run_lease(NAME), ttl, NAME) as fence:
            print(f"held {fence.token}", flush=True)
            for number in takewhile(go_on, count()):
                path = f"runs/{NAME}/commits/{fence.token}-{number:05}.json"
                publish(store, fence, NewRecord(path, "commit", {"number": number}, fence.token))
                print(f"committed {number}", flush=True)
                time.sleep(0.05)
    except MedfunctaError as error:
        print(error, file=sys.stderr)
        return type(error).__name__
    return "finished"


def race(root: str, ttl: float, environment: dict[str, str], start: Any, over: Any, outcomes: Any) -> None:
    """One of several that ``start`` at once; who wins goes on until it is ``over``."""
    os.environ.update(environment)
    ObjectStore(root).exists("warm")  # the client is ready when the race begins
    start.wait()
    # At least one record: all others may be refused before the winner has written any.
    outcomes.put(drive(root, ttl, lambda number: number == 0 or not over.is_set()))


if __name__ == "__main__":
    commits = int(sys.argv[3])
    print(drive(sys.argv[1], float(sys.argv[2]), lambda number: number < commits), flush=True)
