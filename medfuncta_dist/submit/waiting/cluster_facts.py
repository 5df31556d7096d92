"""What was read from the cluster about one job, and how it is looked up. Pure.

Objects are as the API server gives them, in JSON: the texts and fields are those that a person sees with kubectl.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Thing = Mapping[str, Any]
"""An object of the API server, or a part of one."""


@dataclass(frozen=True)
class Reason:
    """Why a job waits, in one sentence, and what to do now."""

    sentence: str
    do: str = ""
    resubmit: bool = False
    """Whether what is done reaches the job only once it is submitted again: changes of the run file."""

    def fill(self, **names: str) -> Reason:
        """The same with these names in its texts."""
        return replace(self, sentence=self.sentence.format(**names), do=self.do.format(**names))


@dataclass(frozen=True)
class Explanation:
    """Why a job does not run, as far as the cluster could be read. ``reason`` is None if nothing holds it up."""

    reason: Reason | None = None
    unread: str = ""
    """One line that says what could not be read; empty if all could."""


@dataclass(frozen=True)
class ClusterFacts:
    """Objects of one job. Those that could not be read, or do not exist, are missing."""

    job: Thing
    cluster: Thing | None = None
    """Its RayCluster."""
    workloads: Sequence[Thing] = ()
    """Kueue's Workloads that the RayJob owns."""
    pods: Sequence[Thing] = ()
    events: Sequence[Thing] = ()
    """Events about any of these objects, Normal ones included."""
    nodes: Sequence[Thing] = ()
    """Nodes of pods that are not ready."""

    @property
    def name(self) -> str:
        """The RayJob's name."""
        return get_name(self.job)

    @property
    def namespace(self) -> str:
        """The namespace of all of these objects but nodes."""
        return str(self.job.get("metadata", {}).get("namespace", ""))

    def list_events(self, about: Thing, *reasons: str) -> list[Thing]:
        """The events about an object, newest first; only those of the given reasons, if any are given."""
        found = (event for event in self.events if _is_about(event, about))
        return sorted((e for e in found if not reasons or e.get("reason") in reasons), key=get_event_time, reverse=True)

    def find_message(self, about: Thing, *reasons: str) -> str:
        """The text of the newest event about an object; empty if there is none."""
        return next((str(event.get("message", "")) for event in self.list_events(about, *reasons)), "")


def get_name(thing: Thing) -> str:
    """The name of an object."""
    return str(thing.get("metadata", {}).get("name", ""))


def get_status(thing: Thing | None) -> Thing:
    """The status of an object; empty if it has none."""
    status: Thing = (thing or {}).get("status") or {}
    return status


def get_event_time(event: Thing) -> str:
    """When an event was last seen, as RFC 3339 text, which sorts by time."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((str(time) for time in times if time), "")


def find_condition(thing: Thing, kind: str) -> Thing | None:
    """The condition of this type; None if the object has none."""
    conditions: Iterable[Thing] = get_status(thing).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == kind), None)


def has_condition(thing: Thing, kind: str, status: str = "True") -> bool:
    """Whether the condition of this type has this status."""
    return (find_condition(thing, kind) or {}).get("status") == status


def as_phrase(text: str) -> str:
    """A text of the cluster's on one line and without its last dot, to be put into a sentence."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".")


def _is_about(event: Thing, about: Thing) -> bool:
    involved, meta = event.get("involvedObject") or {}, about.get("metadata", {})
    if involved.get("uid") and meta.get("uid"):
        return bool(involved["uid"] == meta["uid"])
    return bool(involved.get("name") == meta.get("name"))
