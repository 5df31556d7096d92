"""What a run reports about itself: one small interface, several sinks, none of which may stop the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from medfuncta_dist.telemetry.artifact import Artifact, Role


class Sink(Protocol):
    """A destination of numbers and events. Names and values never hold text taken from a scan."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Numbers of one outer step."""

    def event(self, name: str, **fields: Any) -> None:
        """Something that happened: ``started``, ``checkpoint``, ``restored`` … with JSON fields."""

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """A picture, (row, column) float in [0, 1]. Pictures of scans are patient data."""

    def artifact(self, artifact: Artifact, role: Role) -> None:
        """What the run has read, or made."""

    def flush(self) -> None:
        """Make what was logged so far durable."""

    def close(self) -> None:
        """Flush and release; nothing is logged after."""


class Telemetry:
    """All sinks as one, opened here. A sink that fails is dropped, with one line on stderr: telemetry never ends a run.

    ``images`` is the run file's ``telemetry.images``: without it, pictures go nowhere.
    """

    def __init__(self, openers: Sequence[Callable[[], Sink]], *, images: bool = False) -> None:
        self._sinks: list[Sink] = []
        self._images = images
        for opener in openers:
            try:
                self._sinks.append(opener())
            except Exception as error:
                print(f"telemetry: a sink could not be opened: {error}", file=sys.stderr)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Numbers of one outer step, to every sink."""
        self._call_each(lambda sink: sink.log(step, metrics))

    def event(self, name: str, **fields: Any) -> None:
        """Something that happened, to every sink."""
        self._call_each(lambda sink: sink.event(name, **fields))

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """A picture, to every sink, and only if the run file allows it."""
        if self._images:
            self._call_each(lambda sink: sink.image(name, step, array))

    def artifact(self, artifact: Artifact, role: Role) -> None:
        """What the run has read, or made, to every sink."""
        self._call_each(lambda sink: sink.artifact(artifact, role))

    def flush(self) -> None:
        """Make what was logged so far durable, before a checkpoint says that it happened."""
        self._call_each(lambda sink: sink.flush())

    def close(self) -> None:
        """Flush and release every sink."""
        self._call_each(lambda sink: sink.close())
        self._sinks.clear()

    def _call_each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:
                self._sinks.remove(sink)
                print(f"telemetry: {type(sink).__name__} is off from now on: {error}", file=sys.stderr)
