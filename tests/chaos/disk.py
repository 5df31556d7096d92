"""A disk that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk(folder: Path, size: int, *, lazy: bool = False) -> Iterator[Path]:
    """``size`` bytes of a file system of its own; the test is skipped where this user may not mount one.

    ``lazy``: a process that is being ended may still hold a file of it. Otherwise a file left open is a failure.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk; test_storage_faults.py has a limit of file sizes, too")
    yield folder
    subprocess.run(["umount", *(["--lazy"] if lazy else []), str(folder)], check=True)
