"""One path for a stage's progress: its driver's reports go to a bar on stderr, a stored record and Ray's metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import KNOWN
from medfuncta_dist.config.submission_id import submission_id
from medfuncta_dist.errors import LimitReachedError
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.status.run_cost import count_gpus
from medfuncta_dist.submit.status.spending import NOTHING_SPENT, Budget, Spent, compute_spent
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_record import ProgressRecorder, StageProgress, rate, read_progress
from medfuncta_dist.telemetry.progress_report import ProgressReport


@contextmanager
def open_reporter(
    run: RunFile, store: ObjectStore, stage: str, fence: Fence | None, stages: Sequence[str] = ()
) -> Iterator[StageReporter]:
    """Report a stage's progress while the block runs. ``stages``: all stages of this process, whose cluster holds what
    any of them needs.

    RunFileError where the run's money is limited, and its cluster has no price.
    """
    job, held = submission_id(), count_gpus(run, [stage, *stages])
    budget = Budget.of(run, [stage, *stages])
    others = _spent_by_others(run, store, stage) if budget.limited else NOTHING_SPENT
    per_hour = budget.rates.per_hour
    recorder = ProgressRecorder(store, run.name, stage, gpus=held, per_hour=per_hour, job=job, fence=fence)
    with recorder, ProgressBar(stage) as bar:
        yield StageReporter(recorder, bar, budget, others)


def limit_before_stage(
    run: RunFile,
    store: ObjectStore,
    stage: str,
    stages: Sequence[str],
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], LimitReachedError | None]:
    """What tells that the run has used its hours or its money while it is settled, before its stage reports anything:
    with the time since now."""
    budget = Budget.of(run, [stage, *stages])
    if not budget.limited:
        return lambda: None
    known, began = _spent_by_others(run, store, stage=""), clock()

    def reached() -> LimitReachedError | None:
        seconds = clock() - began
        own = Spent(seconds, (budget.rates.per_hour or 0.0) * seconds / 3600)
        return budget.reached(known + own, f"{stage} has not begun")

    return reached


def _spent_by_others(run: RunFile, store: ObjectStore, stage: str) -> Spent:
    """What the run has used, but for one stage. IntegrityError for a damaged record: a limit that forgets is none."""
    found = {other: read_progress(store, run.name, other) for other in KNOWN if other != stage}
    return compute_spent(run, {other: progress for other, progress in found.items() if progress is not None})


class StageReporter:
    """Where a stage's driver reports to; none of what it writes to may end the stage."""

    def __init__(self, recorder: ProgressRecorder, bar: ProgressBar, budget: Budget, others: Spent) -> None:
        self._recorder, self._bar, self._budget, self._others = recorder, bar, budget, others
        self._metrics: Any = None

    def report(self, report: ProgressReport) -> None:
        """Show, store and export how far the stage is."""
        self._bar.show(report)
        self._recorder.record(report)
        self._export(report)

    def limit_reached(self) -> LimitReachedError | None:
        """The error with which the stage must stop, if the run has used its hours or its money."""
        if not self._budget.limited:
            return None
        now = self._recorder.progress_now()
        own = Spent(now.used_s, now.cost)
        where = f"stops at {now.done} of {now.total} {now.unit}" if now.total else "has not begun"
        return self._budget.reached(self._others + own, f"{now.stage} {where}")

    def notify(self, text: str) -> None:
        """Print a line for people, above the bar."""
        self._bar.notify(text)

    def _export(self, report: ProgressReport) -> None:
        """From the moment that Ray runs here: what needs no task needs no Ray."""
        progress = self._recorder.progress
        if self._metrics is None and "ray" in sys.modules:
            from medfuncta_dist.telemetry.ray_metrics import open_metrics

            self._metrics = open_metrics(progress.run, progress.stage)
        if self._metrics is not None:
            self._metrics.log(report.done, exported_figures(report, progress))


def exported_figures(report: ProgressReport, progress: StageProgress) -> dict[str, float]:
    """What Ray's metrics show of a report; ``progress`` is the record that holds it already."""
    figures: dict[str, float] = {"done": report.done, "total": report.total, "starts": progress.starts}
    figures |= report.figures
    pace = rate(progress.samples)
    if pace is not None and report.stage not in ("train", "prior"):
        # Sources of the pack stage are files; what it is judged by is the scans in them.
        scans_per_unit = report.figures.get("packed", report.done) / report.done if report.done else 1.0
        figures["scans_per_s"] = pace * scans_per_unit
    if report.size is not None:
        figures |= {"bytes_done": report.size.done, "bytes_total": report.size.total}
        by_bytes = rate(progress.byte_samples)
        figures |= {} if by_bytes is None else {"bytes_per_s": by_bytes}
    return {name: float(value) for name, value in figures.items()}
