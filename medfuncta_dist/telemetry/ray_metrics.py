"""Numbers of a run as Ray metrics, which Ray exports to Prometheus. The only file of telemetry that imports ray."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
from ray.util.metrics import Counter, Gauge

from medfuncta_dist.telemetry.artifact import Artifact, Role
from medfuncta_dist.telemetry.metric_catalogue import METRICS, Metric


class RayMetrics:
    """A sink for one stage of a run: the metrics of the catalogue. What the catalogue lacks is not exported."""

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": run}
        mine = [metric for metric in METRICS if metric.stage == stage]
        self._gauges = {(m.source or m.name): (m, _gauge(m)) for m in mine if m.kind == "gauge"}
        self._counters = {m.name: Counter(m.exported, m.meaning, m.tags) for m in mine if m.kind == "counter"}

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Set the gauges."""
        for name, value in {"step": float(step), **metrics}.items():
            if name in self._gauges:
                metric, gauge = self._gauges[name]
                gauge.set(_exported(metric, value), self._tags)

    def event(self, name: str, **fields: Any) -> None:
        """Count the event; a checkpoint also sets the time of the last one."""
        if name == "checkpoint":
            self.log(int(fields.get("step", 0)), {"checkpoint_time": time.time()})
        if name == "preempted" and "preemptions" in self._counters:
            self._counters["preemptions"].inc(1, self._tags)
        if "events" in self._counters:
            self._counters["events"].inc(1, {**self._tags, "event": name})

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Pictures are not exported."""

    def artifact(self, artifact: Artifact, role: Role) -> None:
        """Nor are artifacts."""

    def flush(self) -> None:
        """Ray exports by itself."""

    def close(self) -> None:
        """Nothing to release."""


def open_metrics(run: str, stage: str) -> RayMetrics | None:
    """A stage's metrics from this process; None while Ray has not started here."""
    return RayMetrics(run, stage) if ray.is_initialized() else None


def _gauge(metric: Metric) -> Gauge:
    return Gauge(metric.exported, metric.meaning, metric.tags)


def _exported(metric: Metric, value: float) -> float:
    """Events hold seconds per step; the metric is steps per second."""
    return 1.0 / value if metric.name == "steps_per_s" and value > 0 else value
