"""Estimating how long a stage still takes, from the progress that its driver recorded. Pure."""

from __future__ import annotations

from medfuncta_dist.telemetry.progress_record import StageProgress, rate


def estimate_seconds_left(progress: StageProgress) -> float | None:
    """Seconds from ``updated`` to the end of the stage at the current rate: 0 if finished, None if not known."""
    if progress.finished is not None or (progress.total > 0 and progress.done >= progress.total):
        return 0.0
    by_bytes = rate(progress.byte_samples)  # sources differ in size: bytes tell more, as long as some are left
    if by_bytes is not None and progress.bytes_done < progress.bytes_total:
        return (progress.bytes_total - progress.bytes_done) / by_bytes
    current_rate = rate(progress.samples)
    return None if current_rate is None else (progress.total - progress.done) / current_rate
