"""All checks, shown as they are answered."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.check import Check, Outcome, run_checks
from medfuncta_dist.doctor.machine_checks import machine_checks
from medfuncta_dist.doctor.ray_checks import ray_checks
from medfuncta_dist.doctor.storage_checks import storage_checks


def run_doctor(run: RunFile | None, context: str | None = None) -> dict[str, Any]:
    """Ask everything. ``exit_code`` 1 where something is bad. Nothing is left behind in storage or cluster."""
    answered = []
    for found in run_checks(_list_checks(run, context)):
        print(found, file=sys.stderr)
        answered.append(found)
    counts = Counter(found.finding.state for found in answered)
    told = ", ".join(f"{counts[state]} {state}" for state in Outcome)
    return {
        "checks": [found.told() for found in answered],
        "counts": {str(state): counts[state] for state in Outcome},
        "exit_code": 1 if counts[Outcome.BAD] else 0,
        "said": [f"doctor: {len(answered)} checks: {told}"],
    }


def _list_checks(run: RunFile | None, context: str | None) -> list[Check]:
    from medfuncta_dist.doctor.kubernetes_checks import kubernetes_checks  # its client takes a second to import

    return [*machine_checks(run), *storage_checks(run), *ray_checks(), *kubernetes_checks(run, context)]
