"""The report of a run from its scores: pictures of chosen scans, the map of latents, curves, the probe's figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.baselines import evenly
from medfuncta_dist.evaluation.counted_tasks import CountedTasks
from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.fitted_table import FittedTable, open_fitted
from medfuncta_dist.evaluation.latent_map.map_driver import latent_map, map_tasks
from medfuncta_dist.evaluation.latent_map.umap_projection import require_umap
from medfuncta_dist.evaluation.original_scans import read_samples
from medfuncta_dist.evaluation.probe_section import read_probe
from medfuncta_dist.evaluation.report import Picture, ReportData, render
from medfuncta_dist.evaluation.stored_scores import current_scores, report_folder
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.latents.table_format import latents_of
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes
from medfuncta_dist.task_map import FanOut
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.telemetry.progress_report import OnProgress, ignore_progress

PAGE = "report.html"


def write_report_again(
    run: RunFile, fan_out: FanOut, on_progress: OnProgress = ignore_progress, *, fence: Guard = ALONE
) -> str:
    """Write ``report.html`` from what evaluation has stored, and what has come since, such as a probe; its URI.

    Raises StageOrderError where nothing was evaluated, or the latents are others than those that were.
    """
    if run.evaluate.umap:
        require_umap()
    fitted = open_fitted(run)
    summary, scores = current_scores(fitted, run.name)
    page = report_page(run, fitted, scores, summary, CountedTasks(fan_out, map_tasks(fitted), on_progress))
    path = f"{report_folder(run.name)}/{PAGE}"
    publish_bytes(fitted.store, fence, path, page)
    return fitted.store.uri(path)


def report_page(
    run: RunFile, fitted: FittedTable, scores: pa.Table, summary: dict[str, Any], tasks: CountedTasks
) -> bytes:
    """The page of the report."""
    network = fitted.network
    psnr = {split: scores.filter(pc.equal(scores["split"], split))["psnr"].to_numpy() for split in summary["splits"]}
    held_out = scores.filter(pc.equal(scores["split"], summary["split"]))
    data = ReportData(
        run=run,
        summary=summary,
        spec=network.spec,
        code_version=network.code_version,
        pictures=list(_pictures(run, fitted, held_out)),
        psnr=psnr,
        loss=history(fitted.store, run.name, "loss"),
        held_out_psnr=history(fitted.store, run.name, "psnr"),
        latent_map=latent_map(fitted, scores, tasks, pictures=run.evaluate.pictures > 0, umap=run.evaluate.umap),
        probe=read_probe(fitted.store, run.name),
    )
    return render(data).encode()


def _pictures(run: RunFile, fitted: FittedTable, held_out: pa.Table) -> Iterator[Picture]:
    """The chosen number of held-out scans, evenly spaced from the worst PSNR to the best."""
    if not run.evaluate.pictures:
        return
    chosen = evenly(range(held_out.num_rows), run.evaluate.pictures)
    rows = held_out.sort_by([("psnr", "ascending"), ("key", "ascending")]).take(chosen)
    yield from pictures_of(fitted, rows)


def pictures_of(fitted: FittedTable, rows: pa.Table) -> Iterator[Picture]:
    """Originals and reconstructions of some rows of the scores, in their order."""
    store, cache = fitted.worker.open()
    samples = list(read_samples(store, cache, fitted.picks(rows)))
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
