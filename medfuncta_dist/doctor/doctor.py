"""Running all checks, and printing each as it completes."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.archive_checks import list_archive_checks
from medfuncta_dist.doctor.check import Check, Outcome, run_checks
from medfuncta_dist.doctor.machine_checks import list_machine_checks
from medfuncta_dist.doctor.ray_checks import list_ray_checks
from medfuncta_dist.doctor.storage_checks import list_storage_checks
from medfuncta_dist.storage.leftovers import find_leftovers, remove_all


def clean_machine() -> dict[str, Any]:
    """Remove what commands that have ended left on this machine: temporary folders, and Ray's session folders of ours.

    Nothing that a process holds, nothing of other users or programs, no cache and no storage.
    """
    found = find_leftovers()
    size = found.size
    removed = remove_all(found)
    figures = {"temporary": len(found.scratch), "ray_sessions": len(found.sessions), "removed": removed, "bytes": size}
    said = (
        f"doctor: removed {removed} of {len(found.folders)} folders that commands have left on this machine "
        f"({len(found.scratch)} temporary, {len(found.sessions)} of Ray), {size / 2**20:.1f} MiB"
    )
    return {"cleaned": figures, "said": [said]}


def run_doctor(run: RunFile | None, context: str | None = None) -> dict[str, Any]:
    """Run every check. ``exit_code`` is 1 if one failed. Nothing is left behind in storage or on a cluster."""
    results = []
    for result in run_checks(_list_checks(run, context)):
        print(result, file=sys.stderr)
        results.append(result)
    counts = Counter(result.finding.state for result in results)
    summary = ", ".join(f"{counts[outcome]} {outcome.label}" for outcome in Outcome)
    return {
        "checks": [result.as_dict() for result in results],
        "counts": {str(outcome): counts[outcome] for outcome in Outcome},
        "exit_code": 1 if counts[Outcome.FAILED] else 0,
        "said": [f"doctor: {len(results)} checks: {summary}"],
    }


def _list_checks(run: RunFile | None, context: str | None) -> list[Check]:
    from medfuncta_dist.doctor.kubernetes_checks import list_kubernetes_checks  # its client takes a second to import

    return [
        *list_machine_checks(run),
        *list_storage_checks(run),
        *list_archive_checks(run),
        *list_ray_checks(),
        *list_kubernetes_checks(run, context),
    ]
