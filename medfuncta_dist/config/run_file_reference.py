"""docs/run-file.md, written from the model itself:
``python -m medfuncta_dist.config.run_file_reference > docs/run-file.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from medfuncta_dist.config.keys import Meaning, WithinRun
from medfuncta_dist.config.presets import PRESETS
from medfuncta_dist.config.run_file import RunFile

HEAD = """\
# The run file

One YAML file per run, the same for every stage. Everything has a default except `name`, `storage` and `data` (with
`data.shape`, and one of `data.source`, `data.splits`, `data.snapshot`). Order: preset, then file, then
`--set section.key=value`; later wins. An unknown key, a wrong type or a contradiction between keys is refused before
anything starts, with the key, the value and what was expected.

The smallest whole one:

```yaml
name: ecg-mitbih
storage: s3://bucket/medfuncta     # or a local folder
data:
  source: s3://archive/mit-bih/*.csv
  reader: ecg-csv                  # default: by suffix
  shape: [187]
preset: medfuncta-1d
```

The resolved file (every key) is kept as `runs/<name>/run.yaml`. The column *may change* says whether the same run may
be started again with another value:

- yes: at any time.
- no: a changed file is refused, with the difference.
- no, once settled: the key may be left open; then the run chooses a value once and keeps it.
- new run: with another value it is another run.

This page is generated from the code (`python -m medfuncta_dist.config.run_file_reference`).
"""
HEADER = "| key | type | default | may change | meaning |\n|---|---|---|---|---|"
MAY_CHANGE = {
    WithinRun.FIXED: "no",
    WithinRun.SETTLED: "no, once settled",
    WithinRun.FREE: "yes",
    WithinRun.IDENTITY: "new run",
}


def reference() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *_sections(RunFile.model_json_schema()), *_presets()]) + "\n"


def _sections(schema: dict[str, Any]) -> Iterator[str]:
    definitions, sections, meanings = schema["$defs"], RunFile.sections(), RunFile.meanings()
    yield f"## Top level\n\n{HEADER}"
    for name, field in schema["properties"].items():
        if name not in sections:
            yield _row(name, field, schema, meanings[name])
    for name, kind in sections.items():
        yield from _table(name, definitions[kind.__name__], definitions, kind.meanings())


def _table(
    path: str, section: dict[str, Any], definitions: dict[str, Any], meanings: Mapping[str, Meaning]
) -> Iterator[str]:
    about = " ".join(section.get("description", "").split()).replace("``", "`")
    yield f"\n## `{path}`\n\n{about}\n\n{HEADER}"
    nested = []
    for name, field in section["properties"].items():
        yield _row(name, field, section, meanings[name])
        target = _reference(field)
        if target:
            nested.append((name, definitions[target]))
    for name, definition in nested:
        yield from _table(
            f"{path}.{name}", definition, definitions, dict.fromkeys(definition["properties"], meanings[name])
        )


def _row(name: str, field: dict[str, Any], section: dict[str, Any], meaning: Meaning) -> str:
    required = name in section.get("required", [])
    default = "required" if required else "see below" if _reference(field) else f"`{_plain(field.get('default'))}`"
    about = " ".join(field.get("description", "").split()).replace("``", "`").replace("|", "\\|")
    return f"| `{name}` | {_type(field)} | {default} | {MAY_CHANGE[meaning.within_run]} | {about} |"


def _plain(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value)


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


def _presets() -> Iterator[str]:
    yield "\n## Presets\n\nThe paper's settings; everything they do not name keeps its default.\n"
    for name, sections in PRESETS.items():
        settings = [f"{section}.{key} {value}" for section, keys in sections.items() for key, value in keys.items()]
        yield f"- `{name}`: {', '.join(settings)}"


if __name__ == "__main__":
    print(reference(), end="")
