"""Where rank 0's numbers go: events in storage, Ray's metrics, and Weights & Biases if the run file asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.leftovers import WORK, prune_offline_runs
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import process_folder, temporaries_in, temporary_root
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.ray_metrics import RayMetrics
from medfuncta_dist.telemetry.run_log.worker_lines import write_line
from medfuncta_dist.telemetry.telemetry import Sink, Telemetry
from medfuncta_dist.training.attempt import Attempt


def open_telemetry(run: RunFile, store: ObjectStore, attempt: Attempt) -> Telemetry:
    """All sinks that the run file asks for."""
    openers: list[Callable[[], Sink]] = [
        lambda: EventLog(store, run.name, attempt.name),
        lambda: RayMetrics(run.name, "train"),
    ]
    if run.telemetry.wandb != "off":
        openers.append(lambda: _wandb(run, attempt))
    return Telemetry(openers, images=run.telemetry.images)


def work_folder(run: str) -> Path:
    """A run's local folder on this machine: its contents (offline W&B runs) are never uploaded."""
    return temporary_root() / WORK / run


def _wandb(run: RunFile, attempt: Attempt) -> Sink:
    folder = work_folder(run.name)
    prune_offline_runs(folder, partial(write_line, level="warning"))
    with temporaries_in(process_folder("wandb")):  # it makes folders for the life of the process, which may be killed
        from medfuncta_dist.telemetry.wandb_sink import WandbSink  # half a second that only rank 0 of a W&B run needs

        return WandbSink(run, attempt.name, folder)
