"""How long telemetry waits for storage: a driver that is asked to stop must not spend its grace period on it."""

from __future__ import annotations

from medfuncta_dist.storage.object_store import ObjectStore

TELEMETRY_DEADLINE_S = 10.0
"""Seconds per request: with two of them, and a last checkpoint, a driver still ends within a pod's 120 s."""


def with_short_deadline(store: ObjectStore) -> ObjectStore:
    """The same storage with a short deadline, for what may be written later, or not at all."""
    return ObjectStore(store.root, min(TELEMETRY_DEADLINE_S, store.deadline_s))
