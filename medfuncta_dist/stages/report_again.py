"""The command ``report``: the page of an evaluated run once more, without decoding every scan again."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.report_driver import write_report_again
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.fan_outs import compute_fan_out
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_bar import ProgressBar


def report_command(run: RunFile) -> dict[str, Any]:
    """The answer of the command. RunHeldError while a stage of the run is at work."""
    store = ObjectStore(run.storage)
    lease = hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name)
    with lease as fence, ProgressBar("report") as bar:
        page = write_report_again(run, compute_fan_out(run), bar.show, fence=fence)
    return {"run": run.name, "report": page, "said": [f"report: {page}"]}
