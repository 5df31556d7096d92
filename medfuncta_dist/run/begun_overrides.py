"""The ``--set`` texts that turn a run file into the one a run was begun with: what its next command needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.run.frozen_run_file import begun_with, fixed_part
from medfuncta_dist.run.more_steps import same_schedule, without_steps
from medfuncta_dist.run.settled_keys import as_begun
from medfuncta_dist.storage.object_store import ObjectStore

KEY = re.compile(r"[a-z_]+")
"""A key that --set can name."""


def find_overrides(run: RunFile, store: ObjectStore) -> tuple[str, ...]:
    """``key=value`` for each fixed key in which the run's frozen run file differs; none if it cannot be read."""
    try:
        frozen = begun_with(run, store)
    except MedfunctaError:
        return ()
    if frozen is None:
        return ()
    given, begun = fixed_part(as_begun(run, frozen)), fixed_part(frozen)
    if same_schedule(frozen.train, run.train) and run.train.steps >= frozen.train.steps:
        return list_overrides(without_steps(given), without_steps(begun))  # it gives the run more steps, as it may
    return list_overrides(given, begun)


def list_overrides(given: Mapping[str, Any], begun: Mapping[str, Any]) -> tuple[str, ...]:
    """``key=value`` texts, in JSON, which --set reads as YAML, for what differs between two run files' plain values."""
    return tuple(f"{key}={_to_text(value)}" for key, value in _find_differences(given, begun, ""))


def _find_differences(given: Mapping[str, Any], begun: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in begun.items():
        before, name = given.get(key), f"{prefix}{key}"
        if before == value:
            continue
        if isinstance(before, Mapping) and isinstance(value, Mapping) and all(KEY.fullmatch(str(k)) for k in value):
            yield from _find_differences(before, value, f"{name}.")
        else:
            yield name, value


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./:*-]*", value) else json.dumps(value)
