"""Attempts: each start of the worker group is one, numbered, and its writings carry its name.

``000003-20260711T101500-9f3a`` is the third. Names sort in the order of the attempts; the random end keeps two writers
apart even if both believe to be the third.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import attempts

NAME = re.compile(r"(?:\d{9}-)?(\d{6})-\d{8}T\d{6}-[0-9a-f]{4}")


@dataclass(frozen=True)
class Attempt:
    """``generation`` orders writers: readers prefer what a later one wrote."""

    generation: int
    name: str


def next_attempt(store: ObjectStore, run: str) -> Attempt:
    """The attempt after every one that left a trace in storage (events or checkpoints)."""
    checkpoints = (
        info.path.split("/")[3] for info in store.list(f"runs/{run}/checkpoints") if info.path.count("/") > 3
    )
    generation = 1 + max(generations([*attempts(store, run), *checkpoints]), default=0)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return Attempt(generation, f"{generation:06d}-{moment}-{secrets.token_hex(2)}")


def generations(names: Iterable[str]) -> list[int]:
    """The numbers in attempt names (also behind a checkpoint's step); other names have none."""
    return [int(match[1]) for name in names if (match := NAME.fullmatch(name)) is not None]
