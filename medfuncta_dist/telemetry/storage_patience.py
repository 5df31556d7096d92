"""How long telemetry waits for storage: a driver that is asked to stop must not spend its grace time on it."""

from __future__ import annotations

from medfuncta_dist.storage.object_store import ObjectStore

TELL_S = 10.0
"""Seconds a request: with two of them a driver's end still fits into a pod's 120 s, its last checkpoint included."""


def impatient(store: ObjectStore) -> ObjectStore:
    """The same objects with a deadline for what may as well be told later, or not at all."""
    return ObjectStore(store.root, min(TELL_S, store.deadline_s))
