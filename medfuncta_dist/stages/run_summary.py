"""runs/<name>/summary.json: the figures of every stage that has finished, for people and for scripts."""

from __future__ import annotations

import json
from typing import Any

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.storage.publish import Guard, publish_bytes

FORMAT_VERSION = 1
LARGEST = 2**24
"""Bytes. Figures of all stages take a few thousand."""
_MOVE = "move it away: the stages write a new one when you run them again"


def path(name: str) -> str:
    """Where a run's summary lies."""
    return f"runs/{name}/summary.json"


def load(store: ObjectStore, name: str) -> dict[str, Any]:
    """Figures by stage; empty when no stage has finished."""
    where = store.uri(path(name))
    try:
        data = store.read(path(name), limit=LARGEST)
    except ObjectMissingError:
        return {"format_version": FORMAT_VERSION, "run": name}
    whole = strict_json.parse_object(data, "the run's summary", where, _MOVE)
    if whole.get("format_version") != FORMAT_VERSION:
        raise FormatVersionError(
            f"summary format {whole.get('format_version')!r} is not {FORMAT_VERSION}, the one this version writes",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or move it away",
        )
    if whole.get("run") != name:
        raise IntegrityError("the summary belongs to another run", where=where, do=_MOVE)
    return whole


def merge(store: ObjectStore, name: str, stage: str, figures: dict[str, Any], fence: Guard) -> None:
    """Put one stage's figures in, in place of its former ones. LeaseLostError where the lease was lost."""
    whole = load(store, name) | {stage: figures}
    data = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False).encode()
    publish_bytes(store, fence, path(name), data)
