"""The proof: everything that is stored of a data set, and of the runs on it, is read and searched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.forget.affected_runs import runs_on
from medfuncta_dist.forget.carried_latents import beside, scan_latent_keys
from medfuncta_dist.forget.object_search import Trace, Traces, batches, search_objects
from medfuncta_dist.scans.private.forgotten_list import Act
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import dataset_path
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.task_map import Failed, FanOut, map_here

DATA = ("shards", "indexes", "looks", "snapshots")
"""Of a data set: what no record names was left over by a task that died, and may go."""
MADE_OF_LATENTS = ("parts", "catalogue")
"""Of a latent table."""
SMALL = 2**30
"""Bytes that are copied or read in this process: starting workers takes longer."""


def for_bytes(size: int, fan_out: FanOut) -> FanOut:
    """The fan-out for so much work."""
    return fan_out if size > SMALL else map_here


@dataclass(frozen=True)
class Found:
    """What was read, and what it holds."""

    objects: int
    bytes: int
    holding: Sequence[str]
    """Objects that hold something of the scans."""
    equal: list[Trace]
    """Other scans with the same values."""


@dataclass(frozen=True)
class Search:
    """Looks for the traces of an act."""

    store: ObjectStore
    dataset: str
    traces: Traces
    fan_out: FanOut
    say: Callable[[str], None]

    def everything(self) -> Found:
        """All objects of the data set and of the runs on it as they are now: also of a run that has just begun."""
        folders = [dataset_path(self.dataset), *(f"runs/{run.name}" for run in runs_on(self.store, self.dataset))]
        return self._searched([info for folder in folders for info in self.store.list(folder)])

    def require_nothing(self, paths: Collection[str]) -> None:
        """IntegrityError if one of these objects is still there and holds anything."""
        wanted = set(paths)
        folders = sorted({path.rpartition("/")[0] for path in wanted})
        again = self._searched([i for f in folders for i in self.store.list(f) if i.path in wanted]) if wanted else None
        if again is not None and again.holding:
            raise IntegrityError(
                f"{len(again.holding)} objects still hold something of the forgotten scans",
                where="\n         ".join(self.store.uri(path) for path in again.holding),
                do="delete these objects if nothing needs them, then run the same command again",
            )

    def _searched(self, objects: Sequence[ObjectInfo]) -> Found:
        total = sum(info.size for info in objects)
        self.say(f"reading {len(objects)} objects, {total} bytes, to prove it")
        count, size, traces = 0, 0, list[Trace]()
        tasks = batches(self.store.root, objects, self.traces)
        for outcome in for_bytes(total, self.fan_out)(search_objects, tasks):
            if isinstance(outcome, Failed):
                raise outcome.error
            count, size = count + outcome.result.objects, size + outcome.result.bytes
            traces += outcome.result.found
        holding = sorted({trace.path for trace in traces if not trace.equal})
        return Found(count, size, holding, [trace for trace in traces if trace.equal])


def equal_scans(store: ObjectStore, equal: Sequence[Trace], act: Act, salted: KeyMaker) -> list[Trace]:
    """Without those of scans that are grids of patches, unless all of a scan's latents, in their order, are those of a
    forgotten one."""
    of_patches = [trace for trace in equal if trace.patched]
    same: set[str] = set()
    for folder in sorted({trace.path.rpartition("/parts/")[0] for trace in of_patches}):
        mine = [trace for trace in of_patches if trace.path.startswith(f"{folder}/parts/")]
        held = beside(store, folder, {trace.path for trace in mine})
        found = scan_latent_keys(store, held, {trace.key for trace in mine}, salted)
        same |= {key for (_, key), latents in found.items() if latents in act.latents}
    return [trace for trace in equal if not trace.patched or trace.key in same]


def is_left_over(path: str, held: Collection[str]) -> bool:
    """Whether an object that no record names may go. ``held``: names of the runs whose lease is held."""
    parts = path.split("/")
    if parts[0] == "datasets":
        return parts[2] in DATA
    return parts[1] in held and (
        parts[2] in ("report", "neighbours")
        or (parts[2] == "latents" and not set(MADE_OF_LATENTS).isdisjoint(parts[3:5]))
    )
