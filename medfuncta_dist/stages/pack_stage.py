"""The pack stage: scans to shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.shards.data_contract import SPLITS_BY, SplitsBy
from medfuncta_dist.shards.pack_driver import PackSummary, pack
from medfuncta_dist.storage.leases.lease import Fence, dataset_lease
from medfuncta_dist.storage.object_store import ObjectStore


def run_pack(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Pack what is missing; the figures of the whole data set as it is then.

    The data set has a lease of its own, beside the run's: runs may share it.
    """
    lease = hold_lease(store, dataset_lease(run.dataset), run.cluster.lease_seconds, f"data set {run.dataset}")
    with lease as dataset_fence, open_reporter(run, store, "pack", fence, stages) as reporter:
        summary = pack(run, cpu_fan_out(run), reporter.report, fence=dataset_fence)
    return figures_of(summary)


def figures_of(summary: PackSummary) -> dict[str, Any]:
    """The stage's figures, as ``--json`` prints them, and what is said about them."""
    return {
        "snapshot": summary.snapshot_digest,
        "counts": summary.counts,
        "splits": summary.splits,
        "new_sources": summary.new_sources,
        "quarantined": summary.counts["quarantined"] + summary.counts["sources_quarantined"],
        "reasons": dict(Counter(entry["reason"] for entry in summary.quarantined)),
        "splits_by": str(summary.splits_by),
        "patients": summary.patients and summary.patients.patients,
        "patients_in_several_splits": summary.patients and summary.patients.in_several_splits,
        "scans_grouped_by": summary.patients and summary.patients.by,
        "table_rows_without_source": summary.unused_rows,
        "said": [_summary_text(summary), *_about_splits(summary)],
    }


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
    if summary.unused_rows:
        lines.append(f"{summary.unused_rows} rows of data.group.table name no source of the archive")
    return [f"      {line}" for line in lines]


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
