"""How two processes share the tests (``pytest -n 2``): by file. All files that need the session's Ray cluster go to one
process, which begins with them, so that there is one cluster; each other file goes whole to whichever process is free.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

FIXTURE = "ray_cluster"


@cache
def scope_of(file: Path) -> str:
    """Tests of equal scopes run in one process. Decided by the text: who hands out the tests collects none of them."""
    return "ray" if FIXTURE in file.read_text(encoding="utf-8") else str(file)


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out scopes in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByFile(config, log)


def begin_with_ray(items: list[pytest.Item]) -> None:
    """In place. It takes longest, and the other process goes on with all else meanwhile."""
    for item in items:
        if FIXTURE in getattr(item, "fixturenames", ()) and scope_of(item.path) != "ray":
            raise pytest.UsageError(
                f"{item.path} must name {FIXTURE}, which its tests use: else there are two clusters"
            )
    items.sort(key=lambda item: scope_of(item.path) != "ray")
