"""The pack stage: scans to shards."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from medfuncta_dist.archive.series_sums import SeriesSums
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import PackPreview, preview_pack
from medfuncta_dist.packing.sources.copy_conflicts import CopyConflicts
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.shards.data_contract import SPLITS_BY, SplitsBy
from medfuncta_dist.storage.leases.lease import Fence, dataset_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import limited
from medfuncta_dist.telemetry.progress_record import StageProgress, rate, read_progress

LINE_S = 10.0
SURVEY = "survey of the archive: {} of {} sources"
SEARCH = "search for scans that look alike: {} of {} steps"


def run_pack(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Pack what is missing; the figures of the whole data set as it is then.

    The data set has a lease of its own, beside the run's: runs may share it.
    """
    lease = hold_lease(store, dataset_lease(run.dataset), run.cluster.lease_seconds, f"data set {run.dataset}")
    with lease as dataset_fence, open_reporter(run, store, "pack", fence, stages) as reporter:
        summary = pack(
            run,
            limited(cpu_fan_out(run), reporter.limit_reached),
            reporter.report,
            fence=dataset_fence,
            on_survey=said_sometimes(reporter.notify, SURVEY),
            on_search=said_sometimes(reporter.notify, SEARCH),
        )
    return figures_of(summary)


def figures_of(summary: PackSummary) -> dict[str, Any]:
    """The stage's figures, as ``--json`` prints them, and what is said about them."""
    return {
        "snapshot": summary.snapshot_digest,
        "counts": summary.counts,
        "splits": summary.splits,
        "new_sources": summary.new_sources,
        "sources": summary.changes,
        "uncompared": summary.uncompared,
        "set_aside": summary.aside,
        "quarantined": summary.counts["quarantined"] + summary.counts["sources_quarantined"],
        "reasons": dict(Counter(entry["reason"] for entry in summary.quarantined)),
        "splits_by": str(summary.splits_by),
        "patients": summary.patients and summary.patients.patients,
        "patients_in_several_splits": summary.patients and summary.patients.in_several_splits,
        "scans_grouped_by": summary.patients and summary.patients.by,
        "table_rows_without_source": summary.unused_rows,
        "sources_without_table_row": summary.without_row,
        "copies_told_otherwise": asdict(summary.copy_conflicts),
        "look_alikes": summary.look_alikes and asdict(summary.look_alikes),
        "said": [
            _summary_text(summary),
            *_instances_text(summary.counts),
            *_changes_text(summary.changes),
            *_uncompared_text(summary.uncompared),
            *_aside_text(summary.aside),
            *_about_splits(summary),
            *(
                f"      {line}"
                for line in _table_text(summary.unused_rows, summary.without_row, summary.copy_conflicts)
            ),
            *(f"      {line}" for line in _look_alikes_text(summary)),
        ],
    }


def plan_pack(run: RunFile) -> dict[str, Any]:
    """What ``run_pack`` would do, which is not done: nothing is written to storage."""
    preview = preview_pack(run, said_sometimes(lambda text: print(text, file=sys.stderr), SURVEY))
    found, progress = preview.inventory, read_progress(ObjectStore(run.storage), run.name, "pack")
    seconds = _estimate_seconds(preview, progress)
    return {
        "run": run.name,
        "sources": preview.changes,
        "uncompared": preview.uncompared,
        "set_aside": preview.aside,
        "to_read": {"sources": preview.to_read, "bytes": preview.bytes_to_read},
        "archive": asdict(found),
        "series": preview.dicom and asdict(preview.dicom),
        "packed": preview.packed,
        "table_rows_without_source": preview.unused_rows,
        "sources_without_table_row": preview.without_row,
        "copies_told_otherwise": asdict(preview.copy_conflicts),
        "seconds": seconds,
        "said": _plan_text(preview, seconds),
    }


def _estimate_seconds(preview: PackPreview, progress: StageProgress | None) -> float | None:
    """How long packing would take at the rate of the last pack; of its bytes, where it has kept them."""
    if progress is None:
        return None
    by_bytes, by_sources = rate(progress.byte_samples), rate(progress.samples)
    if by_bytes is not None:
        return round(preview.bytes_to_read / by_bytes, 1)
    return None if by_sources is None else round(preview.to_read / by_sources, 1)


def said_sometimes(say: Callable[[str], None], line: str) -> Callable[[int, int], None]:
    """Says ``line`` with what is done, and of how many, every ten seconds: what takes less is not worth any."""
    last = time.monotonic()

    def on_step(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_S:
            last = time.monotonic()
            say(line.format(done, total))

    return on_step


def _plan_text(preview: PackPreview, seconds: float | None) -> list[str]:
    found = preview.inventory
    formats = ", ".join(f"{n} {name}" for name, n in found.formats.items())
    pace = "unknown, nothing was packed before" if seconds is None else f"about {seconds:.0f} s at the last pack's rate"
    one = " (a DICOM series is one)" if preview.dicom is not None and preview.dicom.files else ""
    lines = [
        f"archive: {found.sources} files, {found.bytes} bytes ({formats})",
        f"sources{one}: {', '.join(f'{n} {name}' for name, n in preview.changes.items())}",
        f"to read: {preview.to_read} sources, {preview.bytes_to_read} bytes; time: {pace}",
        f"packed so far: {preview.packed} scans",
    ]
    if "dicom" in found.formats:
        lines.insert(1, f"DICOM: {found.patients} patients, {found.studies} studies, {found.series} series")
        lines[2:2] = _series_text(preview.dicom)
    lines += [f"problem: {n} x {reason}" for reason, n in found.problems.items()]
    lines += [*_uncompared_text(preview.uncompared), *_aside_text(preview.aside)]
    lines += _table_text(preview.unused_rows, preview.without_row, preview.copy_conflicts)
    return [*lines, "nothing was packed: this was a plan"]


def _series_text(dicom: SeriesSums | None) -> list[str]:
    if dicom is None or not dicom.files:
        return []
    made = f"{dicom.usable} images" if dicom.volumes is None else f"{dicom.volumes} volumes of {dicom.usable} files"
    left = f"; {sum(dicom.reasons.values())} files that make none" if dicom.reasons else ""
    return [f"DICOM series: {made}{left}", *(f"series: {n} files: {reason}" for reason, n in dicom.reasons.items())]


def _instances_text(counts: Mapping[str, int]) -> list[str]:
    """What became of the files of DICOM series."""
    if not counts.get("instances"):
        return []
    packed, lost, out = (counts[f"instances_{name}"] for name in ("packed", "quarantined", "left_out"))
    return [f"      DICOM series: {counts['instances']} files, {packed} packed, {lost} quarantined, {out} left out"]


def _table_text(unused: int, without_row: int, conflicts: CopyConflicts) -> list[str]:
    lines = [f"{unused} rows of the table name no source of the archive"] if unused else []
    lines += [f"{without_row} sources have no row in the table"] if without_row else []
    if conflicts:
        lines.append(CONFLICTS.format(**asdict(conflicts)))
    return lines


def _look_alikes_text(summary: PackSummary) -> list[str]:
    found = summary.look_alikes
    if found is None:
        return []
    least = "" if found.complete else "at least "
    lines = []
    if found.across_splits or found.across_patients:
        lines.append(LOOK_ALIKES.format(least, found.across_splits, found.across_patients))
    if found.uncompared:
        lines.append(f"{found.uncompared} scans were not compared with others that look alike: {UNCOMPARED}")
    if found.skipped:
        lines.append(f"{found.skipped} scans look like so many others that they were not compared with all of them")
    return lines


def _uncompared_text(sources: int) -> list[str]:
    what = f"{sources} sources were packed by an earlier version, which did not keep their size: they count as the same"
    return [what] if sources else []


def _aside_text(aside: Mapping[str, int]) -> list[str]:
    return [f"not read: {count} x {reason}" for reason, count in aside.items()]


def _changes_text(changes: Mapping[str, int]) -> list[str]:
    """Nothing for a new archive, or an unchanged one."""
    told = ", ".join(f"{n} {name}" for name, n in changes.items() if n and name not in ("new", "same"))
    return [f"pack: of the sources, {changes['same']} are as they were packed, {told}"] if told else []


def _summary_text(summary: PackSummary) -> str:
    counts = summary.counts
    splits = ", ".join(f"{scans} {name}" for name, scans in sorted(summary.splits.items()))
    lost = counts["quarantined"] + counts["sources_quarantined"]
    return f"pack: {counts['packed']} scans in shards ({splits}), {lost} quarantined"


def _about_splits(summary: PackSummary) -> list[str]:
    """By what the splits were made, what that means for patients, and what to do where it is not what one expects."""
    about, found = SPLITS_BY[summary.splits_by], summary.patients
    if found is not None and found.patients:
        about += f": {found.patients} patients, {found.in_several_splits} in several splits"
    lines = [about]
    if summary.splits_by is SplitsBy.SOURCE:
        lines.append(NEW_DATASET)
    if found is not None and found.in_several_splits:
        lines.append(LEAKING.format(found.in_several_splits))
    lines += [words.format(found.by[way]) for way, words in UNKNOWN.items() if found is not None and way in found.by]
    if summary.empty_splits and summary.splits_by is not SplitsBy.GIVEN:
        lines.append(EMPTY.format(", ".join(summary.empty_splits)))
    return [f"      {line}" for line in lines]


CONFLICTS = (
    "files with the same bytes as another, which alone is packed, of which something else is told: {splits} another "
    "split, {patients} another patient, {labels} other labels; copy-conflicts.csv in the private folder lists them"
)
LOOK_ALIKES = (
    "{}{} pairs of scans look alike in different splits, and {} of different patients in one split; look-alikes.csv in "
    "the private folder lists them"
)
UNCOMPARED = "an earlier version packed them, or they are more than 16 million"
NEW_DATASET = "to split by patient, set data.dataset to a new name and leave out data.group, or set it to patient"
LEAKING = (
    "warning: results on these splits are better than on new patients, because {} patients are in several; correct the "
    "given splits, or leave them out and have the scans split by patient under a new data.dataset"
)
EMPTY = (
    "no scan is in {}: each patient falls into a split by chance, as data.fractions says, so few patients may all miss "
    "one; give it a larger share under a new data.dataset, or add patients"
)
UNKNOWN = {
    "study": "{} scans name no patient: they are split by examination, and patients with several may be in several "
    "splits; data.group tells whose they are by a rule or a table",
    "scan": "{} scans name no patient: each is split by itself; data.group tells whose they are by a rule or a table",
    "file": "{} scans are in the splits that their file gives",
}
