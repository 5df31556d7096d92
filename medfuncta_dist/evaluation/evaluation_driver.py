"""The evaluate stage: scores of every fitted scan, baselines, pictures, and a report of it all.

Writes ``runs/<name>/report/``: ``metrics.parquet`` (a row per scan), ``summary.json``, and ``report.html``, last.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.baselines import CompareTask, combine, compare_task, evenly, flat_picks, most_picks
from medfuncta_dist.evaluation.counted_tasks import CountedTasks
from medfuncta_dist.evaluation.dct import DctTask, dct_task
from medfuncta_dist.evaluation.fitted_table import FittedTable, open_fitted
from medfuncta_dist.evaluation.latent_map.map_driver import map_tasks
from medfuncta_dist.evaluation.latent_map.umap_projection import require_umap
from medfuncta_dist.evaluation.pca import PcaTask, choose_scans, pca_task
from medfuncta_dist.evaluation.report_driver import PAGE, report_page
from medfuncta_dist.evaluation.report_summary import against_baselines, storage_figures, summarise
from medfuncta_dist.evaluation.score_task import as_stored, score_task
from medfuncta_dist.evaluation.stored_scores import report_folder
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes
from medfuncta_dist.task_map import FanOut
from medfuncta_dist.telemetry.progress_report import OnProgress, ignore_progress

TRAINING_SPLIT = "train"


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
    if run.evaluate.umap:
        require_umap()
    fitted = open_fitted(run)
    _require_split(run, fitted)  # before every scan is decoded
    score_tasks, shards = fitted.score_tasks(), _compared_shards(run, fitted)
    linear_tasks = 2 if shards else 0  # PCA and DCT
    total = len(score_tasks) + len(shards) + linear_tasks + map_tasks(fitted)
    tasks = CountedTasks(fan_out, total, on_progress)
    rows = pa.concat_tables(tasks.results(score_task, score_tasks)).sort_by("key").combine_chunks()
    scores = as_stored(rows)
    held_out = scores.filter(pc.equal(scores["split"], run.evaluate.split))
    baselines = _baselines(run, fitted, held_out, shards, tasks) if shards else None
    commits = [fitted.commits[work.name] for work in fitted.target.works]
    summary = summarise(run, fitted.target, commits, fitted.counts, rows, baselines, _storage(fitted))
    files = {
        "metrics.parquet": _parquet(scores),
        "summary.json": canonical_json(summary),
        PAGE: report_page(run, fitted, scores, summary, tasks),
    }
    for name, content in files.items():
        publish_bytes(fitted.store, fence, f"{report_folder(run.name)}/{name}", content)
    return summary


def _storage(fitted: FittedTable) -> dict[str, Any] | None:
    if fitted.storage is None:
        return None
    per_scan = fitted.part_bytes / max(fitted.counts.fitted, 1)
    return storage_figures(fitted.storage, fitted.network, per_scan, fitted.shared_bytes)


def _require_split(run: RunFile, fitted: FittedTable) -> None:
    splits = {fitted.commits[work.name].split for work in fitted.target.works if fitted.commits[work.name].rows}
    if splits and run.evaluate.split not in splits:
        raise RunFileError(
            f"no scan of split '{run.evaluate.split}' is fitted",
            where="evaluate.split",
            do=f"choose among {', '.join(sorted(splits))}",
        )


def _compared_shards(run: RunFile, fitted: FittedTable) -> list[Shard]:
    """The training shards that baselines are made from; none if there is nothing to compare with."""
    if run.evaluate.split == TRAINING_SPLIT:
        return []
    damaged = {commit.shard for commit in fitted.commits.values() if commit.failed}
    return [s for s in fitted.target.snapshot.splits.get(TRAINING_SPLIT, ()) if s.sha256 not in damaged]


def _baselines(
    run: RunFile, fitted: FittedTable, held_out: pa.Table, shards: Sequence[Shard], tasks: CountedTasks
) -> dict[str, Any] | None:
    """All baselines and the reconstructions on the same scans."""
    chosen = held_out.take(evenly(range(held_out.num_rows), most_picks(run.data.points * run.data.channels)))
    picks = fitted.picks(chosen)
    comparisons = tasks.results(compare_task, [CompareTask(fitted.worker, shard, picks) for shard in shards])
    flat = flat_picks(fitted.worker, picks)
    # As many components or coefficients as stored latents have numbers, or as the training split allows.
    numbers = fitted.storage.numbers if fitted.storage else fitted.network.spec.latent
    training = choose_scans(shards, flat.shape[1])
    (pca,) = tasks.results(pca_task, [PcaTask(fitted.worker, training, picks, numbers)])
    (dct,) = tasks.results(dct_task, [DctTask(fitted.worker, training, picks, numbers, tuple(run.data.shape))])
    return against_baselines(combine(flat, comparisons), chosen["psnr"].to_numpy(), pca, dct)


def _parquet(scores: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(scores, buffer, compression="ZSTD")
    return buffer.getvalue()
