"""Makes the index of a run's latent table: learns from a sample, maps the blocks, measures recall, and commits last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting.fit_driver import TableLocation
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.latents.table_format import PartRef, latents_of
from medfuncta_dist.neighbours import faiss_index
from medfuncta_dist.neighbours.faiss_index import NO_EFFORT, Effort
from medfuncta_dist.neighbours.image_curvature import image_curvature
from medfuncta_dist.neighbours.index_plan import (
    FittedPart,
    IndexKind,
    blocks,
    kind_for,
    recipe,
    sample_scans,
    sampled_parts,
)
from medfuncta_dist.neighbours.index_record import (
    KIND,
    IndexRecord,
    fitted_parts,
    index_folder,
    read_index_record,
    record_path,
    records_below,
    table_digest,
    write_object,
    write_tensors,
)
from medfuncta_dist.neighbours.index_task import PROBED, BlockTask, Built, block_task, read_latents
from medfuncta_dist.neighbours.latent_metric import PLAIN, LatentMetric, MetricName, image_metric, whitened_metric
from medfuncta_dist.neighbours.opened_index import open_index
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard, NewRecord, publish
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import Failed, FanOut, map_here
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

SMALL_NUMBERS = 2**26
"""Of all latents together: fewer are indexed in this process, for starting workers takes longer."""
PROBES = 200
"""Scans by which recall is measured: of 2000 neighbours, so that 0.95 is known to within 0.01."""
ENOUGH = 0.97
"""Recall of the probes at which no more effort is tried: enough above the 0.95 that is promised."""
EFFORTS = tuple(Effort(lists, lists // 2) for lists in (8, 16, 32, 64, 128))
"""Tried in this order; the last one is taken whatever its recall."""


@dataclass(frozen=True)
class Made:
    """An index that was made, or found as it should be."""

    folder: str
    record: IndexRecord
    new: bool


def make_index(
    run: RunFile,
    metric: MetricName,
    fan_out: FanOut,
    on_progress: OnProgress = ignore_progress,
    *,
    kind: IndexKind | None = None,
    fence: Guard = ALONE,
) -> Made:
    """The index of all fitted scans under a metric; made anew only where the table, or the ``kind``, is another.

    Args:
        kind: None for what the number of scans asks for.

    Raises:
        StageOrderError: nothing is fitted.
        IntegrityError: a part of the table, or the network, is not the one that was committed.
        LeaseLostError: another driver has taken the run over.
    """
    store = ObjectStore(run.storage)
    target = locate_whole_scans(run, store, "an index of neighbours")
    parts, folder = fitted_parts(store, target), index_folder(target.folder)
    kind = kind or kind_for(sum(one.rows for one in parts))
    present = _present(store, folder, metric)
    if present is not None and (present.table, present.kind) == (table_digest(parts), kind):
        return Made(folder, present, new=False)
    making = _Making(run, store, target, folder, parts)
    record = making.record(metric, kind, fan_out, on_progress)
    publish(store, fence, NewRecord(record_path(folder, metric), KIND, record.body(), fence.token))
    remove_unnamed(store, run.name)
    return Made(folder, record, new=True)


def _present(store: ObjectStore, folder: str, metric: str) -> IndexRecord | None:
    """The record that there is; None also for a damaged one, which the new one replaces."""
    if not store.exists(record_path(folder, metric)):
        return None
    try:
        return read_index_record(store, folder, metric)
    except IntegrityError:
        return None


def remove_unnamed(store: ObjectStore, run: str) -> None:
    """Remove objects that no index of the run names: what was replaced, and what a killed process has left."""
    named = set()
    for folder, metric in records_below(store, run):
        try:
            named |= {f"{folder}/{ref.path}" for ref in read_index_record(store, folder, metric).objects}
        except IntegrityError:
            return  # nobody can tell what a damaged record names; `verify --repair` removes it
    for info in store.list(f"runs/{run}/{KIND}"):
        if "/objects/" in info.path and info.path not in named:
            store.delete(info.path)


@dataclass(frozen=True)
class _Making:
    """What is known before an index is made."""

    run: RunFile
    store: ObjectStore
    target: TableLocation
    folder: str
    parts: list[FittedPart]

    @property
    def scans(self) -> int:
        return sum(one.rows for one in self.parts)

    def record(self, name: MetricName, kind: IndexKind, fan_out: FanOut, on_progress: OnProgress) -> IndexRecord:
        """Make all objects; the record that names them."""
        sample = self._sample()
        metric = self._metric(name, sample)
        vectors = metric.coordinates(sample)
        words = recipe(kind, self.scans, vectors.shape[1], len(vectors))
        faiss_index.use_threads(self.run.cluster.threads)
        learned = write_object(self.store, self.folder, faiss_index.learned(words, vectors), "faiss")
        map_ = None if metric.map is None else write_tensors(self.store, self.folder, {"map": metric.map})
        probes = vectors[np.linspace(0, len(vectors) - 1, min(PROBES, len(vectors))).astype(int)]
        stored = None if kind == "exact" else write_tensors(self.store, self.folder, {"probes": probes})
        tasks = self._tasks(name, map_, learned, stored, vectors.shape[1])
        built = _mapped(tasks, fan_out if self.scans * vectors.shape[1] > SMALL_NUMBERS else map_here, on_progress)
        record = IndexRecord(
            metric=name,
            map=map_,
            table=table_digest(self.parts),
            kind=kind,
            recipe=words,
            coordinates=vectors.shape[1],
            scans=self.scans,
            lists=NO_EFFORT.lists,
            candidates=NO_EFFORT.candidates,
            recall=1.0,
            blocks=tuple(one.block for one in built),
        )
        return record if kind == "exact" else self._with_effort(record, probes, built)

    def _sample(self) -> np.ndarray:
        """Latents of scans chosen by chance."""
        first = latents_of(read_latents(self.store, self.target.folder, [self.parts[0].part]))
        wanted = sample_scans(self.scans, first.shape[1])
        chosen = [one.part for one in sampled_parts(self.parts, wanted)]
        return latents_of(read_latents(self.store, self.target.folder, chosen))[:wanted]

    def _metric(self, name: MetricName, sample: np.ndarray) -> LatentMetric:
        if name == "image":
            network = load_network(self.store, self.target.network)
            return image_metric(image_curvature(network, sample, self.target.snapshot.contract["shape"]))
        return PLAIN if name == "plain" else whitened_metric(sample)

    def _tasks(
        self, metric: MetricName, map_: PartRef | None, learned: PartRef, probes: PartRef | None, coordinates: int
    ) -> list[BlockTask]:
        worker, latents = WorkerSettings.of(self.run), self.target.folder
        return [
            BlockTask(
                worker,
                latents,
                self.folder,
                block[0].split,
                tuple(one.part for one in block),
                metric,
                map_,
                learned,
                probes,
            )
            for block in blocks(self.parts, coordinates)
        ]

    def _with_effort(self, record: IndexRecord, probes: np.ndarray, built: Sequence[Built]) -> IndexRecord:
        """The least effort that finds enough of what comparing all scans has found."""
        opened, truth = open_index(self.store, self.folder, record), nearest_keys(built)[:, 1:]
        for effort in EFFORTS:
            tried = replace(record, lists=effort.lists, candidates=effort.candidates)
            found = opened.with_effort(effort).keys_near(probes, PROBED)
            tried = replace(tried, recall=recall(found, truth))
            if tried.recall >= ENOUGH:
                break
        return tried


def nearest_keys(built: Sequence[Built]) -> np.ndarray:
    """(probe, near) keys of the nearest scans of all blocks."""
    distances = np.concatenate([one.distances for one in built], axis=1)
    keys = np.concatenate([one.keys for one in built], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :PROBED]
    return np.take_along_axis(keys, order, axis=1)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours (query, near) that were found; 1 where there are none."""
    if not truth.shape[1]:
        return 1.0
    shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return float(np.mean(shares))


def _mapped(tasks: Sequence[BlockTask], fan_out: FanOut, on_progress: OnProgress) -> list[Built]:
    """Results in the order of the tasks. The first failure ends it: nothing was committed."""
    found: dict[str, Built] = {}
    for done, outcome in enumerate(fan_out(block_task, tasks), 1):
        if isinstance(outcome, Failed):
            raise outcome.error
        found[outcome.item.name] = outcome.result
        on_progress(ProgressReport("index", done, len(tasks)))
    return [found[task.name] for task in tasks]
