"""How much of a training run's time went into its result, over all its attempts: pure, from its event logs.

Events that are read here, besides ``metrics`` with ``s_per_step`` and ``data_wait``:

    started      {"step", "setup_s", …}           a group of workers is ready
    recovered    {"step", "seconds", "redone", "cause"}   its first new step, after an attempt that had ended early
    checkpoint   {"step", "stall_s", "upload_s"}  committed
    preempted    {"step", "seconds"}              saved before a node was drained
    stopped      {"step"}                         saved on request; what follows is another driver's
    finished     {"step", …}                      the last one; what follows are steps that the run got later
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

HELD_UP = 2.0
"""A step that takes longer than this many median steps was held up."""
STOPPED, FINISHED = "stopped", "finished"
"""Events of a clean stop, and of the last step: what follows is another driver's, of a run that got more steps."""


@dataclass(frozen=True)
class Goodput:
    """Seconds throughout. ``goodput`` is the time that the steps of the result took, less what they waited for data,
    over all time since the start.

    A step that was taken again counts once, as it was taken last. One of more than `HELD_UP` times the median (the
    first of an attempt, which compiles; a straggler) counts as a median one. Waits are means over ranks. The
    time from a clean stop until another driver's workers start is left out: no steps were wanted then.
    """

    goodput: float | None
    """0..1; None before the first logged step."""
    wall_s: float
    steps: int
    s_per_step: float | None
    """Median."""
    attempts: int
    recoveries: int
    """Attempts that followed one that had ended early, for whatever reason."""
    recovery_median_s: float | None
    """From the last sign of life of an attempt to the next attempt's first step: detection, restart, restore."""
    recovery_p95_s: float | None
    redone_steps: int
    lost: dict[str, float]
    """The rest of the time: ``starting``, ``recovering``, ``redoing`` steps, ``saving`` (held up by checkpoints),
    ``waiting`` for data, ``stalling`` in steps that something held up, and ``other`` (validation, between steps)."""
    checkpoints: int
    checkpoint_stall_s: float | None
    """Mean time that a checkpoint kept training from its steps."""
    checkpoint_upload_s: float | None
    """Mean time from there to its commit record, beside training."""
    preemption_save_s: float | None
    """Longest time from noticing that a node is drained to the commit record."""


def goodput(lines: Iterable[dict[str, Any]]) -> Goodput:
    """From all lines of a run, in order (`event_log.read_events`)."""
    lines = list(lines)
    events: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "event":
            events.setdefault(line["name"], []).append(line["fields"])
    recovered, saved = events.get("recovered", []), events.get("checkpoint", [])
    wall_s, steps, kept = _wall(lines), _last_step(lines), _kept_ranges(lines)
    pace = median(it.pace for it in kept) if kept else 0.0
    useful_s = _total_seconds(steps, kept, lambda it: it.useful(pace))
    recoveries = [fields["seconds"] for fields in recovered]
    redone_steps = sum(fields["redone"] for fields in recovered)
    lost = {
        "starting": sum(_setup(line) for line in _counted_starts(lines)),
        "recovering": sum(recoveries),
        "redoing": redone_steps * pace,
        "saving": sum(fields.get("stall_s") or 0.0 for fields in saved),
        "waiting": _total_seconds(steps, kept, lambda it: it.wait),
        "stalling": _total_seconds(steps, kept, lambda it: it.pace - it.wait - it.useful(pace)),
    }
    lost["other"] = max(0.0, wall_s - useful_s - sum(lost.values()))
    return Goodput(
        goodput=None if not kept or wall_s <= 0 else round(min(1.0, useful_s / wall_s), 4),
        wall_s=round(wall_s, 3),
        steps=steps,
        s_per_step=_rounded(pace) if kept else None,
        attempts=len(events.get("started", [])),
        recoveries=len(recovered),
        recovery_median_s=_rounded(median(recoveries)) if recoveries else None,
        recovery_p95_s=_rounded(percentile(recoveries, 0.95)) if recoveries else None,
        redone_steps=redone_steps,
        lost={name: round(seconds, 3) for name, seconds in lost.items()},
        checkpoints=len(saved),
        checkpoint_stall_s=_mean(saved, "stall_s"),
        checkpoint_upload_s=_mean(saved, "upload_s"),
        preemption_save_s=max((fields["seconds"] for fields in events.get("preempted", [])), default=None),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


@dataclass(frozen=True)
class _StepRange:
    """Steps ``first`` + 1 to ``last``, at ``pace`` seconds each, ``wait`` of them without data."""

    first: int
    last: int
    pace: float
    wait: float

    @property
    def steps(self) -> int:
        return self.last - self.first

    def useful(self, median_pace: float) -> float:
        """Useful seconds per step."""
        works = self.pace - self.wait
        return works if works <= HELD_UP * median_pace else median_pace


def _kept_ranges(lines: Sequence[dict[str, Any]]) -> list[_StepRange]:
    """What was logged of the steps that the result consists of: an attempt replaces what follows its first step."""
    kept: list[_StepRange] = []
    at = 0
    for line in lines:
        if line.get("name") == "started":
            at = line["fields"].get("step", 0)
            kept = [replace(it, last=min(it.last, at)) for it in kept if it.first < at]
        elif line.get("values", {}).get("s_per_step") is not None and line["step"] > at:
            pace, waits = line["values"]["s_per_step"], line["values"].get("data_wait") or 0.0
            kept.append(_StepRange(at, line["step"], pace, pace * waits))
            at = line["step"]
    return kept


def _total_seconds(steps: int, kept: Sequence[_StepRange], seconds: Callable[[_StepRange], float]) -> float:
    """Seconds of all steps, from those of the logged ones: of the last before a checkpoint there may be no line."""
    logged = sum(it.steps for it in kept)
    return sum(it.steps * seconds(it) for it in kept) * steps / logged if logged else 0.0


def _counted_starts(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first start, and each after a clean stop: other starts are part of a recovery."""
    wanted = True
    for line in lines:
        if line.get("name") == "started":
            if wanted:
                yield line
            wanted = False
        wanted = wanted or _stops(line)


def _wall(lines: Sequence[dict[str, Any]]) -> float:
    """From the workers' first line of code to the last line of the log, less the time between drivers."""
    if not lines:
        return 0.0
    setup = next((_setup(line) for line in _counted_starts(lines)), 0.0)
    idle = (after["time"] - _setup(after) - line["time"] for line, after in pairwise(lines) if _stops(line))
    times = [line["time"] for line in lines]
    return float(max(times) - times[0] + setup - sum(max(0.0, seconds) for seconds in idle))


def _setup(line: dict[str, Any]) -> float:
    """Seconds from the workers' first line of code to this line, where it says so."""
    return float(line.get("fields", {}).get("setup_s", 0.0))


def _stops(line: dict[str, Any]) -> bool:
    return line.get("name") in (STOPPED, FINISHED)


def _last_step(lines: Sequence[dict[str, Any]]) -> int:
    """The last step of the last attempt; steps of others beyond its first one are lost."""
    reached = 0
    for line in lines:
        step = line["step"] if line["kind"] == "metrics" else line["fields"].get("step", 0)
        reached = step if line.get("name") == "started" else max(reached, step)
    return reached


def _mean(events: Sequence[dict[str, Any]], name: str) -> float | None:
    found = [fields[name] for fields in events if fields.get(name) is not None]
    return _rounded(sum(found) / len(found)) if found else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
