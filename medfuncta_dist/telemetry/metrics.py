"""Numbers of a run as Ray metrics, which Ray exports to Prometheus. The only file of telemetry that imports ray."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.util.metrics import Counter, Gauge


class RayMetrics:
    """A sink: each metric a gauge ``medfuncta_<stage>_<name>``, each event a counted ``medfuncta_<stage>_events``."""

    def __init__(self, run: str, stage: str) -> None:
        self._prefix, self._tags = f"medfuncta_{stage}", {"run": run}
        self._gauges: dict[str, Gauge] = {}
        self._step = Gauge(f"{self._prefix}_step", "Outer steps taken.", ("run",))
        self._events = Counter(f"{self._prefix}_events", "Run events, by name.", ("run", "event"))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Set the gauges."""
        self._step.set(step, self._tags)
        for name, value in metrics.items():
            self._gauge(name).set(value, self._tags)

    def event(self, name: str, **fields: Any) -> None:
        """Count the event."""
        self._events.inc(1, {**self._tags, "event": name})

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Pictures are no metrics."""

    def flush(self) -> None:
        """Ray exports by itself."""

    def close(self) -> None:
        """Nothing to release."""

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"{self._prefix}_{name}", f"{name} of the last logged step.", ("run",))
        return self._gauges[name]
