"""Which W&B run a stage writes to: one for all attempts to train a run, and one for each latent table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import Logged, attempts, logged_steps

OWN_DIGITS = 12
"""Of a table's digest, in the id of its W&B run."""


def _nothing() -> list[Logged]:
    return []


@dataclass(frozen=True)
class TrackedRun:
    """A W&B run. ``id`` is unique in a project of W&B, for good: a deleted one is never given again."""

    id: str
    job: Literal["train", "fit"]
    history: Callable[[], list[Logged]] = _nothing
    """What was logged before, from storage, by step."""


def tracked_training(store: ObjectStore, run: str, notify: Callable[[str], object]) -> TrackedRun:
    """The W&B run of all attempts to train a run.

    Its id ends with when the first attempt began, and that one's random end: a run of the same name elsewhere, or one
    that was deleted and begun anew, has another. ``notify`` gets a line for each event log that cannot be read.
    """
    first = attempts(store, run)[:1]
    began = [part for name in first for part in name.split("-")[-2:]]
    return TrackedRun("-".join([run, *began]), "train", partial(logged_steps, store, run, notify))


def thin_out(logged: Sequence[Logged], most: int) -> list[Logged]:
    """About ``most`` of these steps, evenly, with the last one; and each that has numbers which the one before lacks,
    as those of validations and checkpoints do."""
    every = math.ceil(len(logged) / most)
    last = len(logged) - 1
    return [
        (step, numbers)
        for place, (step, numbers) in enumerate(logged)
        if (last - place) % every == 0 or numbers.keys() - logged[place - 1][1].keys()
    ]


def tracked_table(run: str, digest: str) -> TrackedRun:
    """The W&B run of a latent table: the same for the same table, however often the fit stage is run."""
    return TrackedRun(f"{run}-fit-{digest[:OWN_DIGITS]}", "fit")
