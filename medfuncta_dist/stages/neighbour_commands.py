"""The commands ``index``, ``neighbours`` and ``near-duplicates``: figures for --json, and lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.neighbours.duplicates_report import describe, near_duplicates
from medfuncta_dist.neighbours.index_driver import Made, make_index
from medfuncta_dist.neighbours.index_plan import KINDS, IndexKind
from medfuncta_dist.neighbours.latent_metric import METRICS, MetricName
from medfuncta_dist.neighbours.neighbour_search import Neighbour, Neighbours
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import format_bytes

Name = TypeVar("Name", bound=str)
ENOUGH = 0.95
"""Recall below which a search is said to miss too many."""


def index_run(run: RunFile, metric: str, kind: str | None = None) -> dict[str, Any]:
    """Make the index of a run's latents. RunHeldError while a driver holds the run."""
    name: MetricName = _one_of(METRICS, metric, "--metric")
    wanted: IndexKind | None = None if kind is None else _one_of(KINDS, kind, "--kind")
    store = ObjectStore(run.storage)
    with (
        hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence,
        ProgressBar("index") as bar,
    ):
        made = make_index(run, name, cpu_fan_out(run), bar.show, kind=wanted, fence=fence)
    return _made_figures(made)


def _made_figures(made: Made) -> dict[str, Any]:
    record = made.record
    size = sum(ref.size for ref in record.objects)
    said = [
        f"index: {record.scans} scans under the metric '{record.metric}', {record.kind}, recall {record.recall:.3f}, "
        f"{format_bytes(size)}" + ("" if made.new else "; it was there already")
    ]
    if record.recall < ENOUGH:
        said.append("index: warning: a search misses more than one neighbour in twenty; `--kind exact` misses none")
    body = {key: value for key, value in record.body().items() if key not in ("blocks", "map")}
    return {**body, "index": made.folder, "new": made.new, "bytes": size, "blocks": len(record.blocks), "said": said}


def find_neighbours(run: RunFile, key: str, count: int, metric: str, splits: Sequence[str]) -> dict[str, Any]:
    """The scans nearest to one, from the index."""
    opened = Neighbours.open(run, _one_of(METRICS, metric, "--metric"))
    (found,) = opened.search([key], count, list(splits) or None)
    said = [
        f"neighbours of {key[:12]} ({metric}, {opened.record.kind}, recall {opened.record.recall:.3f})",
        *map(_line, found),
    ]
    record = opened.record
    listed = [asdict(one) for one in found]
    return {
        "key": key,
        "metric": metric,
        "kind": record.kind,
        "recall": record.recall,
        "neighbours": listed,
        "said": said,
    }


def _line(one: Neighbour) -> str:
    labels = ", ".join(map(str, one.labels)) or "none"
    return f"  {one.distance:<10.4g} {one.key}  {one.split}  labels {labels}"


def find_near_duplicates(run: RunFile, metric: str, threshold: float | None) -> dict[str, Any]:
    """Pairs of scans that are nearly the same, and the report of them. RunHeldError while a driver holds the run."""
    name: MetricName = _one_of(METRICS, metric, "--metric")
    store = ObjectStore(run.storage)
    with (
        hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence,
        ProgressBar("near-duplicates") as bar,
    ):
        report = near_duplicates(run, name, cpu_fan_out(run), bar.show, threshold=threshold, fence=fence)
    return {**report, "said": describe(report)}


def _one_of(names: Sequence[Name], given: str, where: str) -> Name:
    if given not in names:
        raise RunFileError(f"'{given}' is not one of {', '.join(names)}", where=where, do="choose one of them")
    return cast(Name, given)
