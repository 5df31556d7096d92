"""What each key of the run file is: type, default, whether it may change, and what it means; from the model itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.keys import Meaning, OnlyFor, WithinRun, only_for
from medfuncta_dist.config.run_file import RunFile

MAY_CHANGE = {
    WithinRun.FIXED: "no",
    WithinRun.SETTLED: "no, once settled",
    WithinRun.FREE: "yes",
    WithinRun.IDENTITY: "new run",
}


@dataclass(frozen=True)
class KeyFacts:
    """A key. ``default`` is written as in YAML; None where the key is required; "" where it is a section."""

    name: str
    type: str
    default: str | None
    may_change: str
    about: str


@dataclass(frozen=True)
class SectionFacts:
    """A section, or one within a section, by its ``path``; that of the top level is ""."""

    path: str
    about: str
    keys: tuple[KeyFacts, ...]


def sections() -> Iterator[SectionFacts]:
    """All of them, in the order of the model."""
    schema, kinds, meanings = RunFile.model_json_schema(), RunFile.sections(), RunFile.meanings()
    own = [
        _key(name, field, schema, meanings[name]) for name, field in schema["properties"].items() if name not in kinds
    ]
    yield SectionFacts("", "", tuple(own))
    for name, kind in kinds.items():
        definition = schema["$defs"][kind.__name__]
        yield from _section(name, definition, schema["$defs"], kind.meanings(), only_for(kind.model_fields))


def default_text(value: object) -> str:
    """A default, as it is written in a run file."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value)


def _section(
    path: str,
    section: dict[str, Any],
    definitions: dict[str, Any],
    meanings: Mapping[str, Meaning],
    kinds: Mapping[str, OnlyFor],
) -> Iterator[SectionFacts]:
    keys, nested = [], []
    for name, field in section["properties"].items():
        keys.append(_key(name, field, section, meanings[name], kinds.get(name)))
        if target := _reference(field):
            nested.append((name, definitions[target]))
    yield SectionFacts(path, _plain(section), tuple(keys))
    for name, definition in nested:
        below = dict.fromkeys(definition["properties"], meanings[name])
        yield from _section(f"{path}.{name}", definition, definitions, below, {})


def _key(
    name: str, field: dict[str, Any], section: dict[str, Any], meaning: Meaning, only: OnlyFor | None = None
) -> KeyFacts:
    required = name in section.get("required", [])
    default = None if required else "" if _reference(field) else default_text(field.get("default"))
    about = _plain(field) + (f" Only for kind `{only.kind}`." if only else "")
    return KeyFacts(name, _type(field), default, MAY_CHANGE[meaning.within_run], about)


def _plain(described: dict[str, Any]) -> str:
    return " ".join(described.get("description", "").split()).replace("``", "`")


def _reference(field: dict[str, Any]) -> str | None:
    found = re.search(r"#/\$defs/(\w+)", str(field))
    return found.group(1) if found else None


def _type(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if "enum" in field:
        return " · ".join(f"`{choice}`" for choice in field["enum"])
    if _reference(field):
        return "section"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    kind = field.get("type", "")
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if kind == "object":
        return "mapping"
    return str(names.get(kind, kind)) + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    said = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f" {', '.join(said)}" if said else ""
