"""Run the installed command as a user does: another process, its stdout, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).parent / "medfuncta-dist")


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``answer`` is the one JSON object on its stdout."""

    code: int
    answer: dict[str, Any]
    stderr: str


def start(*arguments: str, **kwargs: Any) -> subprocess.Popen[str]:
    """Start ``medfuncta-dist ARGUMENTS --json``."""
    environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [COMMAND, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for it; its stdout must be one line of JSON and nothing else."""
    out, err = process.communicate(timeout=240)
    lines = out.splitlines()
    assert len(lines) == 1, f"stdout: {out!r}\nstderr: {err}"
    return Ended(process.returncode, json.loads(lines[0]), err)


def command(*arguments: str) -> Ended:
    """Run it to its end."""
    return finish(start(*arguments))
