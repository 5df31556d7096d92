"""Why a job does not start, from the events of its pods: no node fits, an image cannot be pulled, no quota."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def find_last_warning(events: Iterable[Any], job: str) -> str:
    """The newest warning about the job, or an object created for it (its name begins with the job's); empty if none."""
    about = [
        event for event in events if event.type == "Warning" and _belongs_to(event.involved_object.name or "", job)
    ]
    if not about:
        return ""
    newest = max(about, key=lambda event: str(event.last_timestamp or event.event_time or ""))
    return f"{newest.reason}: {newest.message}"


def _belongs_to(name: str, job: str) -> bool:
    return name == job or name.startswith(f"{job}-")
