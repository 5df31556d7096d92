"""Opens a W&B run in a folder of this machine, where an offline one stays until it is uploaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.leftovers import WORK, prune_offline_runs
from medfuncta_dist.storage.scratch import process_folder, temporaries_in, temporary_root
from medfuncta_dist.telemetry.wandb_runs.tracked_run import TrackedRun

if TYPE_CHECKING:
    from medfuncta_dist.telemetry.wandb_runs.wandb_sink import WandbSink


def work_folder(run: str) -> Path:
    """A run's local folder on this machine: its contents (offline W&B runs) are never uploaded."""
    return temporary_root() / WORK / run


def open_wandb(
    run: RunFile, tracked: TrackedRun, notify: Callable[[str], object], folder: Path | None = None
) -> WandbSink:
    """Begin a W&B run, or go on with it. An offline one is put below ``folder``; by default, the run's own on this
    machine, where old ones are removed."""
    if folder is None:
        folder = work_folder(run.name)
        prune_offline_runs(folder, notify)
    with temporaries_in(process_folder("wandb")):  # it makes folders for the life of the process, which may be killed
        from medfuncta_dist.telemetry.wandb_runs.wandb_sink import WandbSink  # half a second that few processes need

        return WandbSink(run, tracked, folder)
