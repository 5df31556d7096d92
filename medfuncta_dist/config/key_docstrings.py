"""What the keys of a section mean, from the texts below them in its source; read only when someone asks.

Pydantic can do this as a class is made (``use_attribute_docstrings``), which would have every command parse every
section's source.
"""

from __future__ import annotations

import ast
import inspect
import textwrap


def key_docstrings(section: type) -> dict[str, str]:
    """Key to text, of the keys that the class itself declares and that have one. Empty where there is no source."""
    try:
        source = inspect.getsource(section)
    except (OSError, TypeError):
        return {}
    body = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        match following:
            case ast.Expr(ast.Constant(str(text))):
                texts[statement.target.id] = inspect.cleandoc(text)
    return texts
