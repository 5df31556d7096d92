"""Keys of the run file in which two runs differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfuncta_dist.config.run_file import RunFile

ELSEWHERE = ("evaluate.", "data.dataset")
"""Beginnings of keys of the page that each run has of itself, and of the data set, whose name and digest are among the
runs' facts: a run without the key may have the same one."""
APART = "(differs)"
"""In place of both values of a key that may name a place or a person."""


def differing_settings(a: RunFile, b: RunFile) -> list[dict[str, Any]]:
    """Those that decide latents, as {"key", "a", "b"}, in the order of the run file."""
    ours, theirs = (_flat(run.parts(lambda meaning: meaning.decides_results)) for run in (a, b))
    public = _flat(a.parts(lambda meaning: meaning.public)) | _flat(b.parts(lambda meaning: meaning.public))
    return [
        {"key": key, "a": ours.get(key) if key in public else APART, "b": theirs.get(key) if key in public else APART}
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key) and not key.startswith(ELSEWHERE)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
