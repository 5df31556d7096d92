"""The pack stage: scans to shards."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from medfuncta_dist.archive.survey import OnSurvey
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.shards.pack_driver import PackSummary, pack
from medfuncta_dist.shards.pack_preview import PackPreview, preview_pack
from medfuncta_dist.storage.leases.lease import Fence, dataset_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_record import rate, read_progress

SURVEY_LINE_S = 10.0


def run_pack(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Pack what is missing; the figures of the whole data set as it is then.

    The data set has a lease of its own, beside the run's: runs may share it.
    """
    lease = hold_lease(store, dataset_lease(run.dataset), run.cluster.lease_seconds, f"data set {run.dataset}")
    with lease as dataset_fence, open_reporter(run, store, "pack", fence, stages) as reporter:
        survey = said_sometimes(reporter.notify)
        summary = pack(run, cpu_fan_out(run), reporter.report, fence=dataset_fence, on_survey=survey)
    return {
        "snapshot": summary.snapshot_digest,
        "counts": summary.counts,
        "splits": summary.splits,
        "new_sources": summary.new_sources,
        "sources": summary.changes,
        "uncompared": summary.uncompared,
        "quarantined": summary.counts["quarantined"] + summary.counts["sources_quarantined"],
        "reasons": dict(Counter(entry["reason"] for entry in summary.quarantined)),
        "said": [_summary_text(summary), *_changes_text(summary.changes), *_uncompared_text(summary.uncompared)],
    }


def plan_pack(run: RunFile) -> dict[str, Any]:
    """What ``run_pack`` would do, which is not done: nothing is written to storage."""
    preview = preview_pack(run, said_sometimes(lambda text: print(text, file=sys.stderr)))
    found, progress = preview.inventory, read_progress(ObjectStore(run.storage), run.name, "pack")
    pace = rate(progress.samples) if progress else None
    seconds = round(preview.to_read / pace, 1) if pace else None
    return {
        "run": run.name,
        "sources": preview.changes,
        "uncompared": preview.uncompared,
        "to_read": {"sources": preview.to_read, "bytes": preview.bytes_to_read},
        "archive": asdict(found),
        "packed": preview.packed,
        "seconds": seconds,
        "said": _plan_text(preview, seconds),
    }


def said_sometimes(say: Callable[[str], None]) -> OnSurvey:
    """Progress of a survey as a line every ten seconds: a short one is not worth any."""
    last = time.monotonic()

    def on_survey(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SURVEY_LINE_S:
            last = time.monotonic()
            say(f"survey of the archive: {done} of {total} sources")

    return on_survey


def _plan_text(preview: PackPreview, seconds: float | None) -> list[str]:
    found = preview.inventory
    formats = ", ".join(f"{n} {name}" for name, n in found.formats.items())
    pace = "unknown, nothing was packed before" if seconds is None else f"about {seconds:.0f} s at the last pack's rate"
    lines = [
        f"archive: {found.sources} sources, {found.bytes} bytes ({formats})",
        f"sources: {', '.join(f'{n} {name}' for name, n in preview.changes.items())}",
        f"to read: {preview.to_read} sources, {preview.bytes_to_read} bytes; time: {pace}",
        f"packed so far: {preview.packed} scans",
    ]
    if "dicom" in found.formats:
        lines.insert(1, f"DICOM: {found.patients} patients, {found.studies} studies, {found.series} series")
    lines += [f"problem: {n} x {reason}" for reason, n in found.problems.items()]
    lines += _uncompared_text(preview.uncompared)
    return [*lines, "nothing was packed: this was a plan"]


def _uncompared_text(sources: int) -> list[str]:
    what = f"{sources} sources were packed by an earlier version, which did not keep their size: they count as the same"
    return [what] if sources else []


def _changes_text(changes: Mapping[str, int]) -> list[str]:
    """Nothing for a new archive, or an unchanged one."""
    told = ", ".join(f"{n} {name}" for name, n in changes.items() if n and name not in ("new", "same"))
    return [f"pack: sources that were packed before: {changes['same']} same, {told}"] if told else []


def _summary_text(summary: PackSummary) -> str:
    counts = summary.counts
    splits = ", ".join(f"{scans} {name}" for name, scans in sorted(summary.splits.items()))
    lost = counts["quarantined"] + counts["sources_quarantined"]
    return f"pack: {counts['packed']} scans in shards ({splits}), {lost} quarantined"
