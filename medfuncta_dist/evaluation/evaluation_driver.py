"""The evaluate stage: scores of every fitted scan, baselines, pictures, and a report of it all.

Writes ``runs/<name>/report/``: ``metrics.parquet`` (a row per scan), ``summary.json``, and ``report.html``, last.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.evaluation.baselines import CompareTask, combine, compare_task, evenly, flat_picks, most_picks
from medfuncta_dist.evaluation.dct import DctTask, dct_task
from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.evaluation.pca import PcaTask, choose_scans, pca_task
from medfuncta_dist.evaluation.report import Picture, ReportData, render
from medfuncta_dist.evaluation.report_summary import against_baselines, storage_figures, summarise
from medfuncta_dist.evaluation.score_task import ScoreTask, as_stored, score_task
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation, locate_table, require_scans
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.fitting.latent_ledger import Commit, Counts
from medfuncta_dist.latents.table_format import Storage, latents_of
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import Failed, FanOut
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

TRAINING_SPLIT = "train"


@dataclass(frozen=True)
class _Fitted:
    """The latent table when evaluation starts."""

    store: ObjectStore
    worker: WorkerSettings
    target: TableLocation
    commits: dict[str, Commit]
    counts: Counts
    network: SharedNetwork
    storage: Storage | None
    """How it stores latents; None where it has none."""


def report_folder(run: RunFile) -> str:
    """Where the stage writes, relative to the storage root."""
    return f"runs/{run.name}/report"


def evaluate(
    run: RunFile,
    fan_out: FanOut,
    on_progress: OnProgress = ignore_progress,
    *,
    fence: Guard = ALONE,
) -> dict[str, Any]:
    """Evaluate a run; returns what ``summary.json`` holds. ``fence`` is checked before the report is written.

    Raises:
        StageOrderError: the fit stage has not finished.
        IntegrityError: a part of the latent table is missing.
        RunFileError: ``evaluate.split`` has no fitted scans.
        LeaseLostError: another driver has taken the run over.
        Exception: a task's own error.
    """
    fitted = _open(run)
    _require_split(run, fitted)  # before every scan is decoded
    score_tasks, shards = _score_tasks(fitted), _compared_shards(run, fitted)
    linear_tasks = 2 if shards else 0  # PCA and DCT
    tasks = _Tasks(fan_out, len(score_tasks) + len(shards) + linear_tasks, on_progress)
    scores = as_stored(pa.concat_tables(tasks.results(score_task, score_tasks)).sort_by("key").combine_chunks())
    held_out = scores.filter(pc.equal(scores["split"], run.evaluate.split))
    baselines = _baselines(run, fitted, held_out, shards, tasks) if shards else None
    commits = [fitted.commits[work.name] for work in fitted.target.works]
    storage = None if fitted.storage is None else storage_figures(fitted.storage, fitted.network)
    summary = summarise(run, fitted.target, commits, fitted.counts, scores, baselines, storage)
    data = _report_data(run, fitted, scores, held_out, summary)
    files = {
        "metrics.parquet": _parquet(scores),
        "summary.json": canonical_json(summary),
        "report.html": render(data).encode(),
    }
    for name, content in files.items():
        publish_bytes(fitted.store, fence, f"{report_folder(run)}/{name}", content)
    return summary


def _open(run: RunFile) -> _Fitted:
    store = ObjectStore(run.storage)
    target = locate_table(run, store)
    require_scans(target)
    commits = latent_ledger.read_commits(store, target.folder)
    done, missing = cover(target.works, commits)
    if missing:
        raise StageOrderError(
            f"{sum(work.scans for work in missing)} packed scans have no latent yet",
            where=store.uri(target.folder),
            do="run the fit stage first, and let it finish",
        )
    counts = latent_ledger.reconcile(done, commits)
    mine = {work.name: commits[work.name] for work in done}
    latent_ledger.require_parts(store, target.folder, mine.values())
    network = load_network(store, target.network)
    storage = latent_ledger.storage_of(store, target.folder, mine)
    return _Fitted(store, WorkerSettings.of(run), replace(target, works=done), commits, counts, network, storage)


class _Tasks:
    """Runs the stage's tasks, kind after kind, and reports how many of all are done."""

    def __init__(self, fan_out: FanOut, total: int, on_progress: OnProgress) -> None:
        self._fan_out, self._total, self._on_progress = fan_out, total, on_progress
        self._done = 0

    def results(self, task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Results in the items' order, whatever the order of completion. The first failure ends the stage."""
        found: dict[Any, Any] = {}
        for outcome in self._fan_out(task, items):
            if isinstance(outcome, Failed):
                raise outcome.error
            found[outcome.item] = outcome.result
            self._done += 1
            self._on_progress(ProgressReport("evaluate", self._done, self._total))
        return [found[item] for item in items]


def _score_tasks(fitted: _Fitted) -> list[ScoreTask]:
    tasks = []
    for work in fitted.target.works:
        part = fitted.commits[work.name].part
        if part is not None:
            tasks.append(ScoreTask(fitted.worker, fitted.target.folder, fitted.target.network, work, part))
    if not tasks:
        raise StageOrderError(
            "no scan has a latent",
            where=fitted.target.folder,
            do="read the reasons in the fit stage's commit records",
        )
    return tasks


def _require_split(run: RunFile, fitted: _Fitted) -> None:
    splits = {fitted.commits[work.name].split for work in fitted.target.works if fitted.commits[work.name].rows}
    if splits and run.evaluate.split not in splits:
        raise RunFileError(
            f"no scan of split '{run.evaluate.split}' is fitted",
            where="evaluate.split",
            do=f"choose among {', '.join(sorted(splits))}",
        )


def _compared_shards(run: RunFile, fitted: _Fitted) -> list[Shard]:
    """The training shards that baselines are made from; none if there is nothing to compare with."""
    if run.evaluate.split == TRAINING_SPLIT:
        return []
    damaged = {commit.shard for commit in fitted.commits.values() if commit.failed}
    return [s for s in fitted.target.snapshot.splits.get(TRAINING_SPLIT, ()) if s.sha256 not in damaged]


def _baselines(
    run: RunFile, fitted: _Fitted, held_out: pa.Table, shards: Sequence[Shard], tasks: _Tasks
) -> dict[str, Any] | None:
    """All baselines and the reconstructions on the same scans."""
    chosen = held_out.take(evenly(range(held_out.num_rows), most_picks(run.data.points * run.data.channels)))
    picks = _picks(fitted, chosen)
    comparisons = tasks.results(compare_task, [CompareTask(fitted.worker, shard, picks) for shard in shards])
    flat = flat_picks(fitted.worker, picks)
    # As many components or coefficients as stored latents have numbers, or as the training split allows.
    numbers = fitted.storage.numbers if fitted.storage else fitted.network.spec.latent
    training = choose_scans(shards, flat.shape[1])
    (pca,) = tasks.results(pca_task, [PcaTask(fitted.worker, training, picks, numbers)])
    (dct,) = tasks.results(dct_task, [DctTask(fitted.worker, training, picks, numbers, tuple(run.data.shape))])
    return against_baselines(combine(flat, comparisons), chosen["psnr"].to_numpy(), pca, dct)


def _picks(fitted: _Fitted, rows: pa.Table) -> tuple[Pick, ...]:
    shards = {work.shard.sha256: work.shard for work in fitted.target.works}
    places = zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True)
    return tuple(Pick(shards[shard], row) for shard, row in places)


def _report_data(
    run: RunFile, fitted: _Fitted, scores: pa.Table, held_out: pa.Table, summary: dict[str, Any]
) -> ReportData:
    network = fitted.network
    psnr = {split: scores.filter(pc.equal(scores["split"], split))["psnr"].to_numpy() for split in summary["splits"]}
    return ReportData(
        run=run,
        summary=summary,
        spec=network.spec,
        code_version=network.code_version,
        pictures=list(_pictures(run, fitted, held_out)),
        psnr=psnr,
        loss=history(fitted.store, run.name, "loss"),
        held_out_psnr=history(fitted.store, run.name, "psnr"),
    )


def _pictures(run: RunFile, fitted: _Fitted, held_out: pa.Table) -> Iterator[Picture]:
    """The chosen number of held-out scans, evenly spaced from the worst PSNR to the best."""
    if not run.evaluate.pictures:
        return
    chosen = evenly(range(held_out.num_rows), run.evaluate.pictures)
    rows = held_out.sort_by([("psnr", "ascending"), ("key", "ascending")]).take(chosen)
    store, cache = fitted.worker.open()
    samples = list(read_samples(store, cache, _picks(fitted, rows)))
    shards = set(rows["shard"].to_pylist())
    table = latent_ledger.load_table(store, fitted.target.folder, columns=["latent"], shards=shards)
    places = {key: place for place, key in enumerate(table["key"].to_pylist())}
    latents = latents_of(table.take([places[sample.key] for sample in samples]))
    # All at once: a basis field's functions cost as much for one scan as for all.
    decoded = reconstruct(fitted.network, latents, fitted.target.snapshot.contract["shape"])
    for row, sample, values in zip(rows.to_pylist(), samples, decoded, strict=True):
        upright = sample.meta["slice"] is not None
        psnr, ssim, below_min = row["psnr"], row["ssim"], row["below_min"]
        yield Picture(sample.key, sample.values(), values, upright, psnr, ssim, sample.labels, below_min)


def _parquet(scores: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(scores, buffer, compression="ZSTD")
    return buffer.getvalue()
