"""Where a node keeps what torch compiled: in the folder of its shard cache, so that a restart compiles nothing anew.

In a pod that is the cache's volume, which outlives the containers; a container's own temporary folder does not.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

COMPILED = "compiled"
"""Below the shard cache's folder, which evicts and counts only the files of shards that lie directly in it. Compiled
code takes some ten MB: the volume's headroom has room for them."""
VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""What torch and Triton read when they first compile, and the folder of each."""


def use_compile_cache(cache: Path) -> None:
    """Let this process keep and find compiled code below ``cache``; call it before torch first compiles.

    Variables that are set stay as they are. Where the folder cannot be this user's own, nothing is changed: whoever can
    write there decides what runs here.
    """
    folder = cache / COMPILED
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)  # first, for parents are made for everyone to read
        folder.mkdir(exist_ok=True, mode=0o700)
    if _is_own(folder):
        for variable, name in VARIABLES.items():
            os.environ.setdefault(variable, str(folder / name))


def _is_own(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o022
