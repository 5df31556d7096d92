"""The pack stage: scans to shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.run.stage_progress import open_reporter
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
    return {
        "snapshot": summary.snapshot_digest,
        "counts": summary.counts,
        "splits": summary.splits,
        "new_sources": summary.new_sources,
        "quarantined": summary.counts["quarantined"] + summary.counts["sources_quarantined"],
        "reasons": dict(Counter(entry["reason"] for entry in summary.quarantined)),
        "said": [_summary_text(summary)],
    }


def _summary_text(summary: PackSummary) -> str:
    counts = summary.counts
    splits = ", ".join(f"{scans} {name}" for name, scans in sorted(summary.splits.items()))
    lost = counts["quarantined"] + counts["sources_quarantined"]
    return f"pack: {counts['packed']} scans in shards ({splits}), {lost} quarantined"
