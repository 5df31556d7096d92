"""Tasks of several kinds, one kind after the other, whose progress is reported as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medfuncta_dist.task_map import Failed, FanOut
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport


class CountedTasks:
    """Runs a stage's tasks, and reports how many of all ``total`` are done."""

    def __init__(self, fan_out: FanOut, total: int, on_progress: OnProgress) -> None:
        self._fan_out, self._total, self._on_progress = fan_out, total, on_progress
        self._done = 0

    def results(self, task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Results in the items' order, whatever the order of completion. The first failure ends the stage."""
        found: dict[Any, Any] = {}
        for outcome in self._fan_out(task, items):
            if isinstance(outcome, Failed):
                raise outcome.error
            found[outcome.item] = outcome.result
            self._done += 1
            self._on_progress(ProgressReport("evaluate", self._done, self._total))
        return [found[item] for item in items]
