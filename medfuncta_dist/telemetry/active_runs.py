"""active/<run>.json: which runs there are and when each was active last, without a look into their folders.

    {"format_version": 1, "run": "x"}

The object's time is the answer: it is rewritten when a job of the run is recorded and when a stage begins or ends.
`list` finds the newest runs from it. It is a convenience: nothing else reads it, and none of it decides whether a run
exists.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.telemetry.storage_deadline import with_short_deadline

FORMAT_VERSION = 1
FOLDER = "active"


@dataclass(frozen=True)
class ActiveRuns:
    """Names of runs: first those whose activity is known, the last active one first, then all others by name."""

    dated: tuple[str, ...]
    undated: tuple[str, ...]
    """Runs in which only earlier versions have worked: they have no object here."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order in which they are listed."""
        return (*self.dated, *self.undated)


def active_path(run: str) -> str:
    """Where it lies, relative to the storage root."""
    return f"{FOLDER}/{run}.json"


def mark_active(store: ObjectStore, run: str) -> None:
    """Note that a run is active now. Never raises for storage that refuses: one line on stderr, once."""
    data = json.dumps({"format_version": FORMAT_VERSION, "run": run}, sort_keys=True).encode()
    try:
        with_short_deadline(store).write(active_path(run), data)
    except (MedfunctaError, OSError) as error:
        _warn_once(str(getattr(error, "what", type(error).__name__)))


def order_runs(marks: Collection[ObjectInfo], folders: Collection[str]) -> ActiveRuns:
    """The runs that have a folder below ``runs/``, by activity. A mark of a deleted run counts for nothing. Pure."""
    times = {info.path.removeprefix(f"{FOLDER}/").removesuffix(".json"): info.modified for info in marks}
    dated = sorted((name for name in folders if name in times), key=lambda name: (-times[name], name))
    return ActiveRuns(tuple(dated), tuple(sorted(name for name in folders if name not in times)))


def explain_limit(runs: ActiveRuns, limit: int) -> str:
    """What a list of no more than ``limit`` of these runs leaves out."""
    left_out = len(runs.undated[max(0, limit - len(runs.dated)) :])
    undated = f"; {left_out} of the others only earlier versions have worked in: their activity is not known"
    shown = f"{limit} of {len(runs.names)} runs are listed, those active last"
    return shown + (undated if left_out else "") + "; --limit 0 lists all"


@cache
def _warn_once(what: str) -> None:
    print(f"telemetry: `list` may show this run later than it was active: {what}", file=sys.stderr)
