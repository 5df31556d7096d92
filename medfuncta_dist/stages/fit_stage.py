"""The fit stage: a latent for every scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting.fit_driver import FitSummary, fit, locate_table
from medfuncta_dist.fitting.fit_failures import DAMAGED_SHARD
from medfuncta_dist.fitting.latent_ledger import Unsolved
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.run.fan_outs import compute_fan_out
from medfuncta_dist.run.settle_arithmetic import record_halving
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.stages.preflight import check_fitting
from medfuncta_dist.stages.tracked_stages import track_fit
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import REPAIR
from medfuncta_dist.task_map import limited
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport

HALVED_TEXT = (
    "fit: a task ran out of memory and went on with half the chunks; run.yaml keeps that, so that later tasks begin "
    "with them"
)


def run_fit(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Fit what has no latent yet; the figures of the whole table as it is then."""
    check_fitting(run, store)
    with open_reporter(run, store, "fit", fence, stages) as reporter:
        summary = fit(run, limited(compute_fan_out(run), reporter.limit_reached), reporter.report, fence=fence)
        _write_catalogue(run, store, fence, summary, reporter.report)
    if summary.halved:
        record_halving(run, store, fence)
    figures = {
        "latents": summary.folder,
        "table": summary.table_digest,
        "dataset": summary.dataset_digest,
        "network": summary.network_digest,
        "counts": asdict(summary.counts),
        "fitted_now": summary.fitted_now,
        "found_committed": summary.found_committed,
        "psnr": {split: asdict(spread) for split, spread in summary.psnr.items()},
        "scans_per_task": summary.scans_per_task,
        "storage_type": summary.storage_type,
        "numbers": summary.numbers,
        **({"patches": summary.patches} if summary.patches else {}),
        "quarantined": summary.counts.quarantined,
        "reasons": dict(Counter(scan.reason for scan in summary.quarantined)),
        "unsolved": asdict(summary.unsolved),
        "halved": summary.halved,
        "lost_parts": summary.lost_parts,
        "said": [
            _summary_text(summary),
            *_damage_text(summary),
            *_unsolved_text(summary.unsolved),
            *[HALVED_TEXT] * summary.halved,
        ],
    }
    track_fit(run, store, figures)
    return figures


def _write_catalogue(
    run: RunFile, store: ObjectStore, fence: Fence, summary: FitSummary, on_progress: OnProgress
) -> None:
    """What finds and lists the latents; nothing to do where nothing was fitted, or it is there already."""
    if not summary.counts.fitted:
        return
    packed, table = summary.counts.packed, locate_table(run, store)

    def show(done: int, total: int) -> None:
        on_progress(ProgressReport("fit", packed, packed, {"catalogue": f"{done}/{total}"}))

    write_catalogue(store, table.folder, table.shards, fence, show)


def _summary_text(summary: FitSummary) -> str:
    counts = summary.counts
    psnr = ", ".join(f"{split} {spread.mean:.2f} dB" for split, spread in sorted(summary.psnr.items()))
    return (
        f"fit: {counts.fitted} of {counts.packed} scans have {_latents(summary)} of {summary.numbers} numbers, "
        f"{summary.storage_type} ({psnr}), {counts.flagged} below fit.min_psnr, {counts.quarantined} quarantined; "
        f"{summary.scans_per_task} {'patches' if summary.patches else 'scans'} per task"
    )


def _latents(summary: FitSummary) -> str:
    return f"latents of {summary.patches} patches, each" if summary.patches else "a latent"


def _damage_text(summary: FitSummary) -> list[str]:
    """What was missing from storage, and what to do about it."""
    lines = []
    if summary.lost_parts:
        parts = f"{summary.lost_parts} parts of the latent table were missing from storage"
        lines.append(f"fit: {parts}: their scans were fitted again")
    damaged = sum(scan.reason == DAMAGED_SHARD for scan in summary.quarantined)
    if damaged:
        lines.append(
            f"fit: the shards of {damaged} scans are damaged or missing: {REPAIR}, which packs them again from the "
            "archive, then fit again"
        )
    return lines


def _unsolved_text(unsolved: Unsolved) -> list[str]:
    """A warning where there is something to warn of."""
    if not unsolved.steps:
        return []
    return [
        f"fit: {unsolved.steps} steps of {unsolved.scans} scans had no Cholesky factor and left their latents where "
        "they were; the next ones had more damping. Raise fit.damping to avoid this, or fit.steps to make up for it"
    ]
