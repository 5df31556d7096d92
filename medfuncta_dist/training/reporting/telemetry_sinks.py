"""Where rank 0's numbers go: events in storage, Ray's metrics, and Weights & Biases if the run file asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.ray_metrics import RayMetrics
from medfuncta_dist.telemetry.run_log.worker_lines import write_line
from medfuncta_dist.telemetry.telemetry import Sink, Telemetry
from medfuncta_dist.telemetry.wandb_runs.open_wandb import open_wandb
from medfuncta_dist.telemetry.wandb_runs.tracked_run import tracked_training
from medfuncta_dist.training.attempt import Attempt


def open_telemetry(run: RunFile, store: ObjectStore, attempt: Attempt) -> Telemetry:
    """All sinks that the run file asks for."""
    openers: list[Callable[[], Sink]] = [
        lambda: EventLog(store, run.name, attempt.name),  # the first: it leaves the trace by which runs are told apart
        lambda: RayMetrics(run.name, "train"),
    ]
    if run.telemetry.wandb != "off":
        warn = partial(write_line, level="warning")
        openers.append(lambda: open_wandb(run, tracked_training(store, run.name, warn), warn))
    return Telemetry(openers, images=run.telemetry.images)
