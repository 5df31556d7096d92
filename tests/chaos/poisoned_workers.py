"""What a Ray worker does to itself on meeting certain scans, as a broken library would: set up from outside, by Ray.

A driver process that is started with ``environment(...)`` gets workers that ran ``install`` before their first task.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "POISON"


def environment(poison: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Variables for a driver's process. ``poison``: what to do (crash, kill, fail or nan) → file names or keys."""
    variables = {VARIABLE: json.dumps({what: list(names) for what, names in poison.items()}), "PYTHONPATH": str(ROOT)}
    runtime = {"worker_process_setup_hook": f"{__name__}.install", "env_vars": variables}
    return {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": runtime})}


def install() -> None:
    """Make the reader of images, and every sample's values, do what ``POISON`` says."""
    from medfuncta_dist.scans.readers.image_file import ImageReader
    from medfuncta_dist.shards.sample import Sample

    poison: dict[str, list[str]] = json.loads(os.environ[VARIABLE])
    scans, values = ImageReader.scans, Sample.values

    def poisoned_scans(self: ImageReader, path: Path) -> Iterator[Any]:
        if path.name in poison.get("crash", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        return scans(self, path)

    def poisoned_values(self: Sample, out: np.ndarray | None = None) -> np.ndarray:
        if self.key in poison.get("kill", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.key in poison.get("fail", ()):
            raise ArithmeticError("a library does not like this scan")
        found = values(self, out)
        found *= np.float32(np.nan if self.key in poison.get("nan", ()) else 1)
        return found

    ImageReader.scans = poisoned_scans  # type: ignore[method-assign]
    Sample.values = poisoned_values  # type: ignore[method-assign]
