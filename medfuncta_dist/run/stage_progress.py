"""A stage's progress told to everyone: a bar or lines on stderr, a record in storage, and Ray's metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.submission_id import submission_id
from medfuncta_dist.run.shown_progress import shown
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.status.run_cost import count_gpus
from medfuncta_dist.telemetry.progress_record import ProgressRecorder, rate

Notes = dict[str, int | str]
"""Shown behind the bar; whole numbers are recorded, too."""


@contextmanager
def told(
    run: RunFile,
    store: ObjectStore,
    stage: str,
    unit: str,
    read: Callable[[Any], tuple[int, int, Notes]],
    fence: Fence | None,
    beside: Sequence[str] = (),
) -> Iterator[Callable[[Any], None]]:
    """A callback for a stage's reports; ``read`` turns one into (done, total, notes). ``beside``: all
    stages of this process, whose cluster holds what any of them needs."""
    with recorded(run, store, stage, unit, fence, beside) as sinks, shown(stage, lambda read_: read_) as show:

        def report(progress: Any) -> None:
            done, total, notes = read(progress)
            show((done, total, {name: str(value) for name, value in notes.items()}))
            sinks.at(done, total, **{name: value for name, value in notes.items() if isinstance(value, int)})

        yield report


@contextmanager
def recorded(
    run: RunFile, store: ObjectStore, stage: str, unit: str, fence: Fence | None, beside: Sequence[str] = ()
) -> Iterator[Told]:
    """The record and the metrics alone, for a stage that shows its own bar."""
    job, held = submission_id(), count_gpus(run, [stage, *beside])
    with ProgressRecorder(store, run.name, stage, unit=unit, gpus=held, job=job, fence=fence) as recorder:
        yield Told(recorder)


class Told:
    """What a stage's driver says of itself."""

    def __init__(self, recorder: ProgressRecorder) -> None:
        self.recorder = recorder
        self._metrics: Any = None

    def at(self, done: int, total: int, **notes: float) -> None:
        """``done`` of ``total`` are done; ``notes`` are further figures, such as ``quarantined``."""
        self.recorder.at(done, total, **notes)
        progress = self.recorder.progress
        # Sources of the pack stage are files; what it is judged by is the scans in them.
        scans = notes.get("packed", done) / done if done else 1.0
        pace = rate(progress.samples)
        figures: dict[str, float | None] = {"done": done, "total": total, "starts": progress.starts, **notes}
        figures["scans_per_s"] = None if pace is None or progress.stage == "train" else pace * scans
        self._export({name: float(value) for name, value in figures.items() if value is not None})

    def _export(self, figures: dict[str, float]) -> None:
        """From the moment that Ray runs here: what needs no task needs no Ray."""
        if self._metrics is None and "ray" in sys.modules:
            from medfuncta_dist.telemetry.ray_metrics import open_metrics

            progress = self.recorder.progress
            self._metrics = open_metrics(progress.run, progress.stage)
        if self._metrics is not None:
            self._metrics.log(int(figures["done"]), figures)
