"""How long a stage still takes, from what its driver told. Pure."""

from __future__ import annotations

from medfuncta_dist.telemetry.progress_record import StageProgress, rate


def estimate_seconds_left(progress: StageProgress) -> float | None:
    """Seconds from ``updated`` to the stage's end at the present rate; 0 when finished, None while no rate is known."""
    if progress.finished is not None or (progress.total > 0 and progress.done >= progress.total):
        return 0.0
    present = rate(progress.samples)
    return None if present is None else (progress.total - progress.done) / present
