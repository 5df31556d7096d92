"""A note of every fit that a Ray worker begins, from outside: Ray sets it up in each worker of a driver's process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIABLE, PAUSE = "FIT_JOURNAL", "FIT_PAUSE"


def environment(journal: Path, pause_s: float) -> dict[str, str]:
    """Variables for a driver's process, whose workers then write to ``journal``, and wait before they read a batch."""
    variables = {VARIABLE: str(journal), PAUSE: str(pause_s), "PYTHONPATH": str(ROOT)}
    runtime = {"worker_process_setup_hook": f"{__name__}.install", "env_vars": variables}
    return {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": runtime})}


def install() -> None:
    """Write a line as a range's first scan is about to be read."""
    from medfuncta_dist.fitting import fit_task

    batches = fit_task._batches

    def noted(work: fit_task.FitTask, *given: Any) -> Any:
        # Appending less than a page is atomic, whoever else appends.
        with Path(os.environ[VARIABLE]).open("a") as file:
            file.write(f"{time.time()} {work.name}\n")
        return slowly(batches(work, *given))

    fit_task._batches = noted  # type: ignore[assignment]


def slowly(batches: Iterator[Any]) -> Iterator[Any]:
    """With a pause before each, so that fields that are fitted in no time can be killed in the middle as well."""
    for batch in batches:
        time.sleep(float(os.environ[PAUSE]))
        yield batch


def read(journal: Path) -> list[tuple[float, str]]:
    """(time, range) of every fit that was begun."""
    if not journal.exists():
        return []
    lines = (line.split() for line in journal.read_text().splitlines())
    return [(float(at), name) for at, name in lines]
