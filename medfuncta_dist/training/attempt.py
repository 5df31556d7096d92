"""Attempts: each start of the worker group is one, has a number, and names what it writes.

``0000000000070002-20260711T101500-9f3a`` is the second of the driver whose lease has the fencing token 7. Names sort in
the order of the attempts; the random end keeps two writers apart even if both take themselves for the same one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.telemetry.event_log import attempts

NAME = re.compile(r"(?:\d{9}-)?(\d{6,16})-\d{8}T\d{6}-[0-9a-f]{4}")

ATTEMPTS_PER_DRIVER = 10_000
"""The number of an attempt is its driver's fencing token times this, and a count: far more than a driver sees."""
DIGITS = 16
"""A token begins with the Unix time, ten digits; a name with more digits than ``NAME`` takes would not be found."""


@dataclass(frozen=True)
class Attempt:
    """``generation`` orders writers: readers prefer what a later one wrote."""

    generation: int
    name: str


def next_attempt(store: ObjectStore, run: str, fence: Guard) -> Attempt:
    """An attempt with a higher number than every one that left events or checkpoints in storage, and than any of
    a driver that held the run before. LeaseLostError where this driver no longer holds it.
    """
    folder = f"runs/{run}/checkpoints/"
    below = (info.path.removeprefix(folder) for info in store.list(folder))
    checkpoints = (path.split("/")[0] for path in below if "/" in path)
    floor = ATTEMPTS_PER_DRIVER * fence.token
    generation = 1 + max([floor, *generations([*attempts(store, run), *checkpoints])])
    fence.require(store)  # After the listing: a later holder's traces can then not be in it.
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return Attempt(generation, f"{generation:0{DIGITS}d}-{moment}-{secrets.token_hex(2)}")


def generations(names: Iterable[str]) -> list[int]:
    """The numbers in attempt names (also behind a checkpoint's step); other names have none."""
    return [int(match[1]) for name in names if (match := NAME.fullmatch(name)) is not None]
