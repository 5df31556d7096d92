"""Which runs have made something of a data set, and what of it must go."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.config.kept_run_file import with_task_size
from medfuncta_dist.config.load import MAX_BYTES, parse_kept
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, ObjectMissingError, RunFileError
from medfuncta_dist.forget.carried_latents import HeldLatents, held_latents, tables_of
from medfuncta_dist.storage.object_store import ObjectStore

REPORT = ("report.html", "summary.json", "metrics.parquet")
"""In the order of deletion: the list of scans goes last, so that an interrupted deletion is seen."""
PROBE = ("probe.safetensors", "probe.png", "probe.json")
"""What a probe has written: a model that was trained on latents, and how it answers for others."""


@dataclass(frozen=True)
class AffectedRun:
    """A run on the data set. ``file`` is None where its run file is missing, or cannot be read."""

    name: str
    file: RunFile | None = field(repr=False)
    trained: bool
    """It has a shared network, checkpoints of one, or only one to start from: it may have learned from the scans."""

    def scans_per_range(self, store: ObjectStore) -> int | None:
        """Of its fit stage, if that is known."""
        return None if self.file is None else with_task_size(self.file, store).fit.range_scans


def runs_on(store: ObjectStore, dataset: str) -> list[AffectedRun]:
    """The runs that use the data set, and those of which nobody can tell."""
    paths = [info.path for info in store.list("runs")]
    found = []
    for name in sorted({path.split("/")[1] for path in paths if path.count("/") > 1}):
        file = kept_file(store, name)
        folders = tuple(f"runs/{name}/{folder}/" for folder in ("network", "checkpoints", "start"))
        trained = any(path.startswith(folders) for path in paths)
        if file is None or file.dataset == dataset:
            found.append(AffectedRun(name, file, trained))
    return found


def kept_file(store: ObjectStore, name: str) -> RunFile | None:
    """The run file that a run was begun with; None where it is missing, or cannot be read."""
    path = f"runs/{name}/run.yaml"
    try:
        text = store.read(path, limit=MAX_BYTES).decode()
        return parse_kept(text, [f"storage={store.root}"], where=store.uri(path))
    except (ObjectMissingError, IntegrityError, RunFileError, UnicodeDecodeError):
        return None


def latents_of_runs(
    store: ObjectStore,
    runs: Sequence[AffectedRun],
    scans: Collection[str],
    gone: Collection[str],
    stay: Collection[str],
) -> list[tuple[AffectedRun, HeldLatents]]:
    """Each latent table of each run, as ``held_latents`` finds it."""
    return [
        (run, held_latents(store, folder, scans, gone, stay)) for run in runs for folder in tables_of(store, run.name)
    ]


def reports_of(store: ObjectStore, runs: Sequence[AffectedRun], scans: Collection[str]) -> Iterator[str]:
    """The files of reports that show any of the scans; evaluate makes them again, from what stays."""
    for run in runs:
        folder = f"runs/{run.name}/report"
        try:
            data = store.read(f"{folder}/metrics.parquet")
            keys = pq.read_table(io.BytesIO(data), columns=["key"])["key"].to_pylist()
        except ObjectMissingError:
            continue  # the search finds what an interrupted deletion has left
        except (pa.ArrowException, OSError, ValueError, KeyError):
            keys = list(scans)  # damaged: nobody can tell
        if not set(keys).isdisjoint(scans):
            yield from (f"{folder}/{name}" for name in REPORT)


def probes_of(store: ObjectStore, latents: Iterable[tuple[AffectedRun, HeldLatents]]) -> Iterator[str]:
    """The files of probes of runs that hold latents of the scans: they may have been trained on them."""
    for run in dict.fromkeys(run.name for run, table in latents if table.commits):
        yield from (path for name in PROBE if store.exists(path := f"runs/{run}/report/{name}"))


def indexes_of(store: ObjectStore, runs: Sequence[AffectedRun], scans: Collection[str]) -> Iterator[str]:
    """All that is kept of a run's neighbours, records first, where any index may hold one of the scans: its vectors are
    latents, and what it learned it learned from all of them. It is made again by a command."""
    for run in runs:
        paths = [info.path for info in store.list(f"runs/{run.name}/neighbours")]
        rows = [path for path in paths if path.endswith(".parquet")]
        if paths and (not rows or any(_names_any(store, path, scans) for path in rows)):
            yield from sorted(paths, key=lambda path: ("/commits/" not in path, path))


def _names_any(store: ObjectStore, path: str, scans: Collection[str]) -> bool:
    """Whether a table with keys has one of these; also where that cannot be told."""
    try:
        keys = pq.read_table(io.BytesIO(store.read(path)), columns=["key"])["key"].to_pylist()
    except (ObjectMissingError, pa.ArrowException, OSError, ValueError, KeyError):
        return True
    return not set(keys).isdisjoint(scans)
