"""The page on tests names every test that is marked slow, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TABLE_ROW = re.compile(r"^\| `(tests/[\w/.:]+)`", re.MULTILINE)


def is_slow(tree: ast.AST) -> bool:
    """Whether ``mark.slow`` is anywhere in it."""
    return any(ast.unparse(node).endswith("mark.slow") for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def marked(file: Path) -> Iterator[str]:
    """The file, where all of it is slow, and each function of it that is, for some of its parameters at least."""
    name = str(file.relative_to(ROOT))
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.FunctionDef):
            if any(is_slow(decorator) for decorator in statement.decorator_list):
                yield f"{name}::{statement.name}"
        elif is_slow(statement):
            yield name


def test_the_page_names_what_is_marked_slow() -> None:
    slow = {name for file in (ROOT / "tests").rglob("test_*.py") for name in marked(file)}
    assert len(slow) > 5
    assert set(TABLE_ROW.findall((ROOT / "docs" / "testing.md").read_text())) == slow
