"""Commit records for tests, which work alone on their storage."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, NewRecord, publish


def write_record(store: ObjectStore, path: str, kind: str, body: dict[str, Any], generation: int = 0) -> None:
    """Write a commit record as the package does."""
    publish(store, ALONE, NewRecord(path, kind, body, generation))
