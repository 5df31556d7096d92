"""Manifests for the tests of this folder, and a way to break them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.render import Submission, render

RUN = """
name: chest
storage: s3://bucket/medfuncta
data: {source: "s3://archive/*.png", shape: [8, 8]}
train: {batch: 24}
cluster: {workers: 8, gpus_per_worker: 1, cpus_per_worker: 4, threads: 4}
"""
GONE = object()
"""In place of a value: the key is taken away."""


def run_file(*overrides: str) -> RunFile:
    """The run file, changed."""
    return parse(RUN, overrides)


def manifest(*overrides: str, stages: Sequence[str] = ("train",), overlays: Sequence[str] = ()) -> dict[str, Any]:
    """A rendered RayJob."""
    return copy.deepcopy(_rendered(overrides, tuple(stages), tuple(overlays)))


@cache
def _rendered(overrides: tuple[str, ...], stages: tuple[str, ...], overlays: tuple[str, ...]) -> dict[str, Any]:
    return render(Submission(run_file(*overrides), stages, 1, "chest-1", "abc1234"), load_base(overlays))


def changed(whole: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with each ``a/b/0/c`` set to its value."""
    found = copy.deepcopy(whole)
    for path, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part.replace("~", "/") for part in path.split("/"))
        place: Any = found
        for part in parents:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
        if value is GONE:
            del place[last]
        elif isinstance(place, list) and last == len(place):
            place.append(value)
        else:
            place[last] = value
    return found
