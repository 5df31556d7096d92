"""The commit of the code that submits, for a label of the job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from medfuncta_dist import __version__

COMMIT_VARIABLE = "MEDFUNCTA_COMMIT"
"""Set in images, which have no repository."""


def find_code_commit() -> str:
    """The commit of this code: the image's, else that of the repository it runs from, else its version."""
    given = os.environ.get(COMMIT_VARIABLE)
    if given:
        return given
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return f"v{__version__}"
    result = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or f"v{__version__}"
