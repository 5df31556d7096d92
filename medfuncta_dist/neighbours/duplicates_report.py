"""The near-duplicates of a run's table: each scan's neighbours, found in tasks, and what is told of them.

Writes ``runs/<run>/neighbours/<network16>-<fit16>/near-duplicates/<metric>.json``: keys and distances, no pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.neighbours import faiss_index
from medfuncta_dist.neighbours.index_record import (
    IndexRecord,
    fitted_parts,
    index_folder,
    read_index_record,
    require_present,
)
from medfuncta_dist.neighbours.latent_metric import MetricName
from medfuncta_dist.neighbours.near_duplicates import Pair, close_pairs, in_order, typical, with_patients
from medfuncta_dist.neighbours.opened_index import OpenedIndex, open_index
from medfuncta_dist.shards.snapshot import Snapshot, read_index
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import Failed, FanOut, map_here
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

FORMAT_VERSION = 1
PARTNERS = 5
"""Neighbours of each scan that are looked at: of a larger group of equal scans, not every pair is listed."""
SCANS_PER_TASK = 8192
SMALL_SCANS = 20_000
"""Fewer are searched in this process."""
MOST_LISTED = 10_000
SHOWN = 10
"""Pairs on the screen."""


@dataclass(frozen=True)
class NearTask:
    """Scans ``start`` to ``stop`` (exclusive) of one split, whose neighbours are looked for; travels to a worker."""

    worker: WorkerSettings
    folder: str
    record: IndexRecord
    split: int
    start: int
    stop: int


@lru_cache(maxsize=1)
def _opened(root: str, folder: str, record: IndexRecord) -> OpenedIndex:
    """The index in the memory of this process: one task after another searches it."""
    return open_index(ObjectStore(root), folder, record)


def near_task(task: NearTask) -> tuple[np.ndarray, np.ndarray]:
    """(scan, near) distances, and the scans' numbers over all splits; -1 for the scan itself, or none."""
    faiss_index.use_threads(task.worker.threads)
    opened = _opened(task.worker.root, task.folder, task.record)
    starts = np.cumsum([0, *(one.rows.num_rows for one in opened.splits)])
    vectors = faiss_index.vectors_of(opened.splits[task.split].index, task.start, task.stop - task.start)
    near = opened.near(vectors, PARTNERS + 1)
    others = np.where(near.places < 0, -1, starts[near.splits] + near.places)
    itself = starts[task.split] + np.arange(task.start, task.stop)
    return near.distances, np.where(others == itself[:, None], -1, others)


def near_duplicates(
    run: RunFile,
    metric: MetricName,
    fan_out: FanOut,
    on_progress: OnProgress = ignore_progress,
    *,
    threshold: float | None = None,
    fence: Guard = ALONE,
) -> dict[str, Any]:
    """Find the pairs, write the report, and return what it holds.

    Args:
        threshold: distance at or below which a pair counts; None for what the table's distances say.

    Raises:
        StageOrderError: there is no index of the present table under this metric.
        IntegrityError: an object of the index is damaged.
        LeaseLostError: another driver has taken the run over.
    """
    store = ObjectStore(run.storage)
    target = locate_whole_scans(run, store, "a search for duplicates")
    folder = index_folder(target.folder)
    record = read_index_record(store, folder, metric)
    require_present(record, fitted_parts(store, target), store.uri(folder))
    tasks = _tasks(WorkerSettings.of(run), folder, record)
    found = _mapped(tasks, fan_out if record.scans > SMALL_SCANS else map_here, on_progress)
    distances, others = (np.concatenate(parts) for parts in zip(*found, strict=True))
    usual = typical(np.where(others < 0, np.inf, distances).min(1))
    limit = usual.threshold if threshold is None else threshold
    scans = _scans(_opened(store.root, folder, record))
    pairs = [_pair(scans, a, b, distance) for a, b, distance in close_pairs(distances, others, limit)]
    patients, several = _patients(store, target.snapshot, pairs) if target.has_scans else ({}, None)
    report = _report(record, usual.median, limit, with_patients(pairs, patients), several)
    publish_bytes(store, fence, report_path(folder, metric), canonical_json(report))
    return report


def report_path(folder: str, metric: str) -> str:
    """Of the report, relative to the storage root."""
    return f"{folder}/near-duplicates/{metric}.json"


def _tasks(worker: WorkerSettings, folder: str, record: IndexRecord) -> list[NearTask]:
    sizes: dict[str, int] = {}
    for block in record.blocks:
        sizes[block.split] = sizes.get(block.split, 0) + block.scans
    return [
        NearTask(worker, folder, record, number, start, min(start + SCANS_PER_TASK, scans))
        for number, scans in enumerate(sizes.values())
        for start in range(0, scans, SCANS_PER_TASK)
    ]


def _mapped(tasks: Sequence[NearTask], fan_out: FanOut, on_progress: OnProgress) -> list[tuple[np.ndarray, np.ndarray]]:
    found, total, done = {}, sum(task.stop - task.start for task in tasks), 0
    for outcome in fan_out(near_task, tasks):
        if isinstance(outcome, Failed):
            raise outcome.error
        found[outcome.item.split, outcome.item.start] = outcome.result
        done += outcome.item.stop - outcome.item.start
        on_progress(ProgressReport("near-duplicates", done, total))
    return [found[task.split, task.start] for task in tasks]


def _scans(opened: OpenedIndex) -> tuple[pa.ChunkedArray, list[str]]:
    """Keys of all scans by their numbers, and the split of each."""
    keys = pa.concat_tables([one.rows.select(["key"]) for one in opened.splits])["key"]
    return keys, [one.split for one in opened.splits for _ in range(one.rows.num_rows)]


def _pair(scans: tuple[pa.ChunkedArray, list[str]], a: int, b: int, distance: float) -> Pair:
    keys, splits = scans
    (first, in_first), (second, in_second) = sorted((keys[n].as_py(), splits[n]) for n in (a, b))
    return Pair((first, second), (in_first, in_second), distance)


def _patients(
    store: ObjectStore, snapshot: Snapshot, pairs: Sequence[Pair]
) -> tuple[dict[str, str], dict[str, list[str]] | None]:
    """The patient of each scan in a pair, and the patients that are in several splits, with these; None where the data
    set knows no scan's patient."""
    wanted = pa.array(sorted({key for one in pairs for key in one.keys}), pa.string())
    whose: dict[str, str] = {}
    places: list[pa.Table] = []
    for split, shards in snapshot.splits.items():
        for shard in shards:
            index = read_index(store, shard)
            if "group" not in index.column_names:
                return {}, None
            mine = index.filter(pc.is_in(index["key"], wanted))
            whose |= dict(zip(mine["key"].to_pylist(), mine["group"].to_pylist(), strict=True))
            groups = pc.unique(index["group"])
            places.append(pa.table({"group": groups, "split": pa.repeat(split, len(groups))}))
    known = any(group for table in places for group in table["group"].to_pylist())
    return whose, _in_several(places) if known else None


def _in_several(places: Sequence[pa.Table]) -> dict[str, list[str]]:
    together = pa.concat_tables(places).group_by("group").aggregate([("split", "distinct")])
    rows = zip(together["group"].to_pylist(), together["split_distinct"].to_pylist(), strict=True)
    return {group: sorted(splits) for group, splits in sorted(rows) if group and len(splits) > 1}


def _report(
    record: IndexRecord, median: float, threshold: float, pairs: Sequence[Pair], several: dict[str, list[str]] | None
) -> dict[str, Any]:
    ordered = in_order(pairs)
    across = [one for one in ordered if one.across]
    patients = None if several is None else [{"patient": key, "splits": found} for key, found in several.items()]
    return {
        "format_version": FORMAT_VERSION,
        "kind": "near-duplicates",
        "metric": record.metric,
        "table": record.table,
        "scans": record.scans,
        "median_distance": median,
        "threshold": threshold,
        "pairs": len(ordered),
        "across_splits": len(across),
        "of_other_patients": sum(one.same_patient is False for one in ordered),
        "patients_in_several_splits": None if patients is None else len(patients),
        "listed_pairs": [asdict(one) for one in ordered[:MOST_LISTED]],
        "listed_patients": (patients or [])[:MOST_LISTED],
    }


def describe(report: dict[str, Any]) -> list[str]:
    """The report as lines for people; keys are cut to 12 digits."""
    several = report["patients_in_several_splits"]
    lines = [
        f"near-duplicates ({report['metric']}): {report['pairs']} pairs of {report['scans']} scans are at most "
        f"{report['threshold']:.4g} apart; the nearest scan is usually {report['median_distance']:.4g} away",
        f"  {report['across_splits']} in different splits, {report['of_other_patients']} of different patients; "
        + ("patients are not known" if several is None else f"{several} patients are in several splits"),
    ]
    whose = {True: "same patient", False: "different patients", None: "patients not known"}
    for one in report["listed_pairs"][:SHOWN]:
        (a, b), (s, t) = one["keys"], one["splits"]
        lines.append(f"  {one['distance']:.4g}  {a[:12]} ({s})  {b[:12]} ({t})  {whose[one['same_patient']]}")
    for one in report["listed_patients"][:SHOWN]:
        lines.append(f"  patient {one['patient'][:12]} is in {', '.join(one['splits'])}")
    return lines
