"""The commit of the code that submits, for a label of the job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from medfuncta_dist.version import __version__

COMMIT_VARIABLE = "MEDFUNCTA_COMMIT"
"""Set in images, which have no repository."""


def find_code_commit() -> str:
    """The commit of this code: the image's, else that of the repository it runs from, else its version."""
    return find_known_commit() or f"v{__version__}"


def find_known_commit() -> str | None:
    """The commit of this code; None where neither an image nor a repository names it."""
    given = os.environ.get(COMMIT_VARIABLE)
    if given:
        return given
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # there is no git here
        return None
    return asked.stdout.strip() or None
