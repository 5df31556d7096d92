"""The command ``probe``: figures for --json, and lines for people."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.probe.pixel_features import STAGE
from medfuncta_dist.probe.probe_driver import ProbeOptions, describe, probe_run
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_bar import ProgressBar


def probe_command(run: RunFile, options: ProbeOptions) -> dict[str, Any]:
    """Probe a run's latents, and keep what was found. RunHeldError while a driver holds the run."""
    store = ObjectStore(run.storage)
    with (
        hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence,
        ProgressBar(STAGE) as bar,
    ):
        found = probe_run(run, options, bar.show, fence=fence)
    wrote = ["probe.json", "probe.png", *(["probe.safetensors"] if found["model"] else [])]
    written = f"written to {store.uri(f'runs/{run.name}/report')}: {', '.join(wrote)}"
    return {**found, "said": [*describe(found), written]}
