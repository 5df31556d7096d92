"""How two processes share the tests (``pytest -n 2``): by file. All files that need the session's Ray cluster go to one
process, which begins with them, so that there is one cluster; each other file goes whole to whichever process is free.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FIXTURE = "ray_cluster"


@cache
def scope_of(file: Path) -> str:
    """Tests of equal scopes run in one process. Decided by the code: who hands out the tests collects none of them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return "ray" if any(_asks(node) for node in ast.walk(tree)) else str(file)


def _asks(node: ast.AST) -> bool:
    """A parameter of this name, or the name in a list of fixtures; a comment or an explanation does not count."""
    asked = node.arg if isinstance(node, ast.arg) else node.value if isinstance(node, ast.Constant) else None
    return asked == FIXTURE


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out scopes in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByFile(config, log)


def require_named(items: list[pytest.Item]) -> None:
    """UsageError where a test gets the cluster through another fixture alone, which ``scope_of`` does not see."""
    for item in items:
        if FIXTURE in getattr(item, "fixturenames", ()) and scope_of(item.path) != "ray":
            raise pytest.UsageError(
                f"{item.path} must name {FIXTURE}, which its tests use: else there are two clusters"
            )


def begin_with_ray(items: list[pytest.Item]) -> None:
    """In place. It takes longest, and the other process goes on with all else meanwhile."""
    items.sort(key=lambda item: scope_of(item.path) != "ray")
