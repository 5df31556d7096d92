"""A status as lines of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from medfuncta_dist.submit.backends.backend import Job
from medfuncta_dist.submit.status.run_status import RunStatus
from medfuncta_dist.telemetry.progress_report import BytesDone, format_size

BAR_WIDTH = 30
SHOWN_FIGURES = ("loss", "psnr", "packed", "quarantined")


def render_status(status: RunStatus) -> list[str]:
    """State, progress, time, cost; and what went wrong, with what to do."""
    found = [f"{status.name}  {status.state}" + (f" ({status.stage})" if status.stage else "")]
    if status.total:
        found.append(_render_progress(status))
    found += [f"  {'   '.join(part)}" for part in (_render_time(status), _render_cost(status)) if part]
    if status.waiting:
        found.append(f"  waiting: {status.waiting}")
    if status.failure:
        found.append(f"  last failure: {status.failure}")
    if status.next:
        found.append(f"  next: {status.next}")
    if status.unread:
        found.append(f"  {status.unread}")
    return found


def render_cancellation(status: RunStatus, *, forced: bool) -> str:
    """A job after ``cancel``. Whether it saved a checkpoint is not known here."""
    return f"{status.name}: {status.state}{' (forced)' if forced else ''}"


def sort_newest_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs by when they were submitted, the newest first."""
    return sorted(jobs, key=lambda job: (-(job.submitted or 0.0), job.name))


def render_job_table(jobs: Sequence[Job], now: float) -> list[str]:
    """A table with one line per job, in the given order. ``now`` is in Unix seconds, for the age since submission."""
    rows = [("NAME", "RUN", "STAGES", "STATE", "AGE")]
    rows += [(j.name, j.run, " ".join(j.stages), str(j.state), _format_job_age(j, now)) for j in jobs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def format_age(seconds: float) -> str:
    """An age in its two largest units: ``40s``, ``5m``, ``3h12m``, ``2d4h``. Seconds only below two minutes."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m")]
    first = next(place for place, (number, _) in enumerate(units) if number)
    return "".join(f"{number}{unit}" for number, unit in units[first : first + 2] if number)


def _format_job_age(job: Job, now: float) -> str:
    return "" if job.submitted is None else format_age(now - job.submitted)


def format_duration(seconds: float) -> str:
    """Hours, minutes, seconds: ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _render_progress(status: RunStatus) -> str:
    filled = round(BAR_WIDTH * min(1.0, status.progress))
    bar = f"{'█' * filled}{'·' * (BAR_WIDTH - filled)} {status.done}/{status.total} {status.unit}"
    shown = [(name, value) for name, value in sorted(status.figures.items()) if name in SHOWN_FIGURES]
    size = [_format_bytes_done(status)] if status.bytes_total else []
    return "  ".join([f"  {bar}", *size, *(f"{name} {_format_figure(value)}" for name, value in shown)])


def _format_bytes_done(status: RunStatus) -> str:
    pace = None if status.state.is_over else status.bytes_per_s
    return format_size(BytesDone(status.bytes_done, status.bytes_total), pace)


def _render_time(status: RunStatus) -> list[str]:
    found = []
    if status.eta_s is not None and not status.state.is_over:
        found.append(f"time left {format_duration(status.eta_s)}{_note_stage(status)}")
    if status.restarts:
        found.append(f"{status.restarts} restart{'s' * (status.restarts > 1)}")
    if status.silent_s is not None and not status.state.is_over:
        found.append(f"last progress report {format_duration(status.silent_s)} ago")
    return found


def _render_cost(status: RunStatus) -> list[str]:
    found = [f"{status.gpu_hours:.2f} GPU-hours"] if status.gpu_hours else []
    if status.spent is not None:
        found.append(f"spent {status.spent:.2f} {status.currency}")
    if status.remaining is not None:
        found.append(f"remaining {status.remaining:.2f} {status.currency}{_note_stage(status)}")
    return found


def _note_stage(status: RunStatus) -> str:
    """Says that a figure is for the stage, if the job has further stages."""
    return " of this stage" if status.later else ""


def _format_figure(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.5g}"
