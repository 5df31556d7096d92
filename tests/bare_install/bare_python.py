"""A Python of the tests that finds only what the compute core needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BARE = Path(__file__).resolve().parent
ROOT = BARE.parents[1]


def on_bare_install(*command: str) -> str:
    """What it prints, run in the repository; the processes that it starts find no more (``sitecustomize.py``)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BARE), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout
