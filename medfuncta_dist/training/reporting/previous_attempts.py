"""What happened to a run before this attempt: for resuming its numbers, and for how often it should save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import read_events
from medfuncta_dist.telemetry.goodput import FINISHED, STOPPED, Goodput, goodput
from medfuncta_dist.training.checkpoints.checkpoint_interval import time_between_failures
from medfuncta_dist.training.mailbox import AttemptEnd


@dataclass(frozen=True)
class PreviousAttempts:
    """The run's figures so far, and how the attempt before ended; None for the first attempt, and after a clean stop:
    nothing failed then, and no time was lost."""

    figures: Goodput
    last_end: AttemptEnd | None

    def time_between_failures_s(self, train: Train, nodes: int) -> float:
        """Expected seconds between failures of this run on so many nodes."""
        prior = 3600 * train.node_hours_between_failures / nodes
        return time_between_failures(prior, self.figures.wall_s, self.figures.recoveries)


def read_previous_attempts(
    store: ObjectStore, run: str, known_to_driver: AttemptEnd | None, notify: Callable[[str], object]
) -> PreviousAttempts:
    """From the run's stored events, and from what this driver has heard since they were last stored."""
    lines = list(read_events(store, run, notify))
    return PreviousAttempts(goodput(lines), _latest(known_to_driver, _stored_end(lines)))


def told_of_device(before: str, now: str) -> str | None:
    """What is to be said where a run goes on with other models of GPU than it was saved with; None where they are the
    same, or were not recorded."""
    if not before or before == now:
        return None
    return (
        f"the checkpoint was written on {before}, training goes on with {now}: scans come in the same order, but "
        "weights and losses agree with an uninterrupted run's to float32 rounding only, no longer to the last bit"
    )


def _stored_end(lines: Sequence[dict[str, Any]]) -> AttemptEnd | None:
    """How the last attempt in the events ended; None after a clean stop."""
    if not lines or lines[-1].get("name") in (STOPPED, FINISHED):
        return None
    steps = [line["step"] if line["kind"] == "metrics" else line["fields"].get("step") for line in lines]
    last = next((step for step in reversed(steps) if step is not None), 0)
    return AttemptEnd(last, lines[-1]["time"], "stopped")


def _latest(known_to_driver: AttemptEnd | None, stored: AttemptEnd | None) -> AttemptEnd | None:
    """From both: events are stored every ten seconds and with each checkpoint, the driver hears every second."""
    if known_to_driver is None or stored is None:
        return known_to_driver or stored
    step, moment = max(known_to_driver.step, stored.step), max(known_to_driver.time, stored.time)
    return AttemptEnd(step, moment, known_to_driver.cause)
