"""How long a stage still takes, from what its driver told. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from medfuncta_dist.telemetry.progress_record import StageProgress

RECENT_S = 600.0
"""The present rate is that of the last ten minutes: a stage that slowed down an hour ago is judged by now."""


def rate(samples: Sequence[tuple[float, int]]) -> float | None:
    """Units a second lately; None until something was done since the first sample."""
    if len(samples) < 2:
        return None
    now, last = samples[-1]
    since, first = next((s for s in samples[:-1] if now - s[0] <= RECENT_S), samples[-2])
    return (last - first) / (now - since) if last > first and now > since else None


def seconds_left(progress: StageProgress) -> float | None:
    """Seconds from ``updated`` to the stage's end at the present rate; 0 when finished, None while no rate is known."""
    if progress.finished is not None or (progress.total > 0 and progress.done >= progress.total):
        return 0.0
    present = rate(progress.samples)
    return None if present is None else (progress.total - progress.done) / present


def goodput(progress: StageProgress, now: float) -> float | None:
    """The speed over the stage's whole life as a share of its present speed, 0..1.

    What is missing to 1 was spent on queues, preemptions, starts, and steps that were taken twice.
    """
    present = rate(progress.samples)
    until = progress.finished or now
    if present is None or until <= progress.began:
        return None
    return min(1.0, progress.done / (until - progress.began) / present)
