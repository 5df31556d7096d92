"""A note of every fit that a Ray worker begins, from outside: Ray sets it up in each worker of a driver's process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "FIT_JOURNAL"


def environment(journal: Path) -> dict[str, str]:
    """Variables for a driver's process, whose workers then write to ``journal``."""
    variables = {VARIABLE: str(journal), "PYTHONPATH": str(ROOT)}
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
        return batches(work, *given)

    fit_task._batches = noted  # type: ignore[assignment]


def read(journal: Path) -> list[tuple[float, str]]:
    """(time, range) of every fit that was begun."""
    if not journal.exists():
        return []
    lines = (line.split() for line in journal.read_text().splitlines())
    return [(float(at), name) for at, name in lines]
