"""The command ``import-latents``: a folder of the public code's latents becomes the latent table of a run.

Where the run's data set is packed, each file is joined with its scan, and its PSNR is measured. Else the table has no
scans, and no PSNR is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import QuarantineLimitError, RunFileError
from medfuncta_dist.exchange.held_run import HeldRun, hold_run
from medfuncta_dist.exchange.import_plan import ImportPlan, ImportTasks, plan_import
from medfuncta_dist.exchange.import_task import import_task
from medfuncta_dist.exchange.latent_file import UNUSED
from medfuncta_dist.exchange.latent_folder import list_folder
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.fitting.imported_record import KIND, imported_path
from medfuncta_dist.fitting.latent_ledger import Commit, Counts
from medfuncta_dist.fitting.whole_scans import require_whole_scans
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.run.fan_outs import compute_fan_out
from medfuncta_dist.stages.preflight import check_network
from medfuncta_dist.storage.publish import NewRecord, publish
from medfuncta_dist.task_map import Failed, FanOut, map_here
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

COMMAND = "import-latents"


def import_latents(
    run: RunFile, folder: str, fan_out: FanOut | None = None, on_progress: OnProgress = ignore_progress
) -> dict[str, Any]:
    """Import what is not imported yet; the figures of the command.

    Args:
        folder: local, or ``s3://bucket/prefix``: a folder of files for each split.
        fan_out: where scans are decoded and compared; None: on the run's cluster. Without scans, all is done here.

    Raises:
        RunFileError: the run has patches; the folder has another layout, its files cannot be joined with the packed
            scans, or the run's network is not the one that its run file describes.
        StageOrderError: the run has no network.
        QuarantineLimitError: more files are quarantined than ``data.max_quarantined`` allows.
        RunHeldError: another driver holds the run.
    """
    if run.field.kind != "siren":
        raise RunFileError("the public code has no fields of this kind", where="field.kind", do="set it to siren")
    require_whole_scans(run, "import-latents")
    listed = list_folder(folder)
    with hold_run(run) as held:
        check_network(held.run, held.store)
        plan = plan_import(held, listed)
        here = not plan.target.has_scans  # then a task only reads and writes, and the owner's mapping is here
        _run(held, plan, map_here if here else fan_out or compute_fan_out(held.run), on_progress)
        return _finish(held, plan, on_progress)


def _run(held: HeldRun, plan: ImportPlan, fan_out: FanOut, on_progress: OnProgress) -> None:
    """Import the ranges that have no commit record yet. The first failure ends the command; what is committed stays."""
    committed, _ = latent_ledger.withdraw_lost(held.store, plan.target.folder, held.fence)
    done, todo = cover(plan.works, latent_ledger.settled(committed))
    if plan.target.has_scans:  # without, a changed folder is another table
        todo += [work for work in done if _may_be_better(committed[work.name])]
        done = [work for work in done if not _may_be_better(committed[work.name])]
    total, ready = sum(work.units for work in plan.works), sum(work.units for work in done)
    quarantined = sum(len(committed[work.name].quarantined) for work in done)
    on_progress(ProgressReport(COMMAND, ready, total, {"quarantined": quarantined}))
    for outcome in fan_out(import_task, ImportTasks(held, plan, todo)):
        if isinstance(outcome, Failed):
            raise outcome.error
        ready += outcome.item.work.units
        quarantined += outcome.item.work.units - outcome.result.rows
        on_progress(ProgressReport(COMMAND, ready, total, {"quarantined": quarantined}))


def _may_be_better(commit: Commit) -> bool:
    """Whether files were missing or could not be used: they may be there now. What was fitted stays."""
    return any(one.reason.startswith(UNUSED) for one in commit.quarantined)


def _finish(held: HeldRun, plan: ImportPlan, on_progress: OnProgress) -> dict[str, Any]:
    """Check that every range is committed, and publish what makes a table without scans count."""
    store, target = held.store, plan.target
    commits = latent_ledger.read_commits(store, target.folder)
    counts = latent_ledger.reconcile(plan.works, commits)
    mine = [commits[work.name] for work in cover(plan.works, commits)[0]]
    latent_ledger.require_parts(store, target.folder, mine)
    _check_limit(held.run, counts, mine)
    if counts.fitted:
        _write_catalogue(held, plan, on_progress)
    if plan.record is not None:
        publish(store, held.fence, NewRecord(imported_path(held.run.name), KIND, plan.record.body()))
    psnr = {split: asdict(spread) for split, spread in latent_ledger.psnr_by_split(mine).items()}
    figures = {
        "run": held.run.name,
        "latents": target.folder,
        "network": target.network.digest,
        "files": plan.file_count,
        "other_files": plan.folder.others,
        "counts": asdict(counts),
        "quarantined": counts.quarantined,
        "reasons": dict(Counter(one.reason for commit in mine for one in commit.quarantined)),
        "psnr": psnr,
    }
    return figures | {"said": _said(figures)}


def _write_catalogue(held: HeldRun, plan: ImportPlan, on_progress: OnProgress) -> None:
    """What finds and lists the latents, as the fit stage writes it."""

    def show(done: int, total: int) -> None:
        on_progress(ProgressReport(COMMAND, plan.file_count, plan.file_count, {"catalogue": f"{done}/{total}"}))

    write_catalogue(held.store, plan.target.folder, plan.target.shards, held.fence, show)


def _check_limit(run: RunFile, counts: Counts, commits: Iterable[Commit]) -> None:
    if counts.quarantined > run.data.max_quarantined * counts.packed:
        reason, files = Counter(one.reason for commit in commits for one in commit.quarantined).most_common(1)[0]
        raise QuarantineLimitError(
            f"{counts.quarantined} of {counts.packed} files cannot be used, {files} because: {reason}",
            where=f"data.max_quarantined allows a share of {run.data.max_quarantined}",
            do="correct the cause, or raise data.max_quarantined; then run the same command again",
        )


def _said(figures: dict[str, Any]) -> list[str]:
    counts, psnr = figures["counts"], figures["psnr"]
    measured = ", ".join(f"{split} {spread['mean']:.2f} dB" for split, spread in psnr.items())
    lines = [
        f"{COMMAND}: {counts['fitted']} of {counts['packed']} latents imported, {counts['quarantined']} quarantined; "
        + (f"PSNR {measured}" if measured else "no PSNR is known, as the scans are not packed")
    ]
    lines += [f"  {number}: {reason}" for reason, number in sorted(figures["reasons"].items())]
    if others := figures["other_files"]:
        lines.append(f"  {others} other files of the folder are left out")
    return lines
