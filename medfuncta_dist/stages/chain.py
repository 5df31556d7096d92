"""Stages in order. Each is refused before it starts if what it reads from is not there."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.stages import summary
from medfuncta_dist.stages.run_record import freeze, thaw
from medfuncta_dist.storage.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore

STAGES = ("pack", "train", "fit", "evaluate")
"""Each is ``run_<name>(run, store, fence)`` in ``stages/<name>.py``, imported at its turn: packing needs no torch."""


def run_stages(run: RunFile, names: Sequence[str]) -> dict[str, Any]:
    """Run the named stages; each returns its figures (plain values), which are merged into the run's summary.json.

    The answer holds each stage's figures under its name, their lines under ``said`` and all ``quarantined`` together.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise RunFileError(f"there is no stage {unknown[0]!r}", do=f"choose from {', '.join(STAGES)}")
    store = ObjectStore(run.storage)
    run, first = freeze(run, store)
    answer: dict[str, Any] = {"run": run.name, "said": [], "quarantined": 0}
    for name in names:
        try:
            figures = _run_stage(name, run, store, None)
        except RunFileError:
            if first and name == names[0]:
                thaw(run, store)
            raise
        answer["said"] += figures.pop("said")
        answer["quarantined"] += figures.get("quarantined", 0)
        answer[name] = figures
        summary.merge(store, run.name, name, figures)
    return answer


def _run_stage(name: str, run: RunFile, store: ObjectStore, fence: Fence | None) -> dict[str, Any]:
    print(f"[{run.name}] {name} ...", file=sys.stderr)
    began = time.monotonic()
    figures: dict[str, Any] = getattr(import_module(f"medfuncta_dist.stages.{name}"), f"run_{name}")(run, store, fence)
    return figures | {"seconds": round(time.monotonic() - began, 3)}
