"""What happened to a run before this attempt: for resuming its numbers, and for how often it should save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import read_events
from medfuncta_dist.telemetry.goodput import STOPPED, Goodput, goodput
from medfuncta_dist.training.checkpoints.checkpoint_interval import time_between_failures
from medfuncta_dist.training.mailbox import Reached


@dataclass(frozen=True)
class Past:
    """The run's figures so far, and the last sign of the attempt before; None for the first attempt, and after a clean
    stop: nothing failed, and nobody waited for the steps to go on."""

    figures: Goodput
    reached: Reached | None

    def between_failures_s(self, train: Train, nodes: int) -> float:
        """Expected seconds between failures of this run on so many nodes."""
        prior = 3600 * train.node_hours_between_failures / nodes
        return time_between_failures(prior, self.figures.wall_s, self.figures.recoveries)


def past(store: ObjectStore, run: str, told: Reached | None, say: Callable[[str], object]) -> Past:
    """From the run's events, and from what this driver was told since they were last stored."""
    lines = list(read_events(store, run, say))
    figures = goodput(lines)
    return Past(figures, _later(told, _stored(lines)))


def _stored(lines: Sequence[dict[str, Any]]) -> Reached | None:
    """The last sign in the events: of an attempt of this driver, or of one that has ended; None after a clean stop."""
    if not lines or lines[-1].get("name") == STOPPED:
        return None
    steps = [line["step"] if line["kind"] == "metrics" else line["fields"].get("step") for line in lines]
    last = next((step for step in reversed(steps) if step is not None), 0)
    return Reached(last, lines[-1]["time"], "stopped")


def _later(told: Reached | None, stored: Reached | None) -> Reached | None:
    """From both: events are stored every ten seconds and with each checkpoint, the driver is told every second."""
    if told is None or stored is None:
        return told or stored
    return Reached(max(told.step, stored.step), max(told.time, stored.time), told.cause)
