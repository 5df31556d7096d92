"""What `--version` prints."""

from __future__ import annotations

from medfuncta_dist.submit.manifest.code_commit import find_known_commit
from medfuncta_dist.version import __version__


def version() -> str:
    """The package's version, and the commit of its code where an image or a repository names it."""
    commit = find_known_commit()
    return f"medfuncta-dist {__version__}" + (f" (commit {commit})" if commit else "")
