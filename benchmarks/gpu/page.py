"""From result lines to one record, and from that to a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import rounded, rows_of
from benchmarks.gpu.plan import SECTIONS
from benchmarks.gpu.targets import rows

Line = Mapping[str, Any]


def record_of(lines: Sequence[Line]) -> dict[str, Any]:
    """What is known: of each section its last run's results, with where and how that run was made."""
    runs = {line["run"]: line["where"] for line in lines if "where" in line}
    names = dict.fromkeys(
        [*(section.name for section in SECTIONS), *(line["section"] for line in lines if "section" in line)]
    )
    sections = {name: _section(name, lines) for name in names}
    results = {name: section["parts"] for name, section in sections.items() if section}
    latest = next(reversed(runs.values()), {})
    return {
        "benchmark": "gpu",
        **latest,
        "targets": rows(results),
        "sections": {
            name: section | {"commit": _commit(runs, section)} for name, section in sections.items() if section
        },
    }


def _section(name: str, lines: Sequence[Line]) -> dict[str, Any]:
    mine = [line for line in lines if line.get("section") == name]
    if not mine:
        return {}
    # A run in which the section had no time does not replace one in which it has measured something.
    measured = [line["run"] for line in mine if "part" in line]
    last = (measured or [mine[-1]["run"]])[-1]
    found: dict[str, Any] = {"run": last, "status": "not finished", "parts": {}}
    for line in mine:
        if line["run"] == last:
            found |= line.get("outcome", {})
            if "part" in line:
                found["parts"][line["part"]] = line["values"]
    return found


def _commit(runs: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    return str(runs.get(section["run"], {}).get("commit", "unknown"))


def markdown(record: Mapping[str, Any]) -> str:
    """The page: the table of targets, then each section."""
    machine = record.get("machine", {})
    title = f"# GPU: {machine.get('name', 'unknown')}"
    parts = [title, *record.get("notes", []), rows_of(record["targets"])]
    for section in SECTIONS:
        found = record["sections"].get(section.name)
        parts += [f"## {section.name}: {section.title}", *_about(found, record)]
    return "\n\n".join(part for part in [*parts, _ran(record)] if part) + "\n"


def _about(found: Mapping[str, Any] | None, record: Mapping[str, Any]) -> list[str]:
    if not found:
        return ["Not run."]
    outcome = found["status"] + (f": {found['why']}" if found.get("why") else "")
    seconds = f", {found['seconds']:.0f} s" if "seconds" in found else ""
    other = f", at commit `{found['commit']}`" if found["commit"] != record.get("commit") else ""
    return [f"{outcome[0].upper()}{outcome[1:]}{seconds}{other}.", *_tables(found["parts"])]


def _tables(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table for each run of parts with the same columns."""
    tables: list[list[dict[str, Any]]] = []
    skipped: dict[str, list[str]] = {}
    for name, values in rounded(dict(parts)).items():
        if "skipped" in values:
            skipped.setdefault(values["skipped"], []).append(name)
            continue
        row = {"part": name, **{key: _cell(value) for key, value in values.items()}}
        if not tables or list(tables[-1][0]) != list(row):
            tables.append([])
        tables[-1].append(row)
    left_out = [f"Skipped, {why}: {'; '.join(names)}." for why, names in skipped.items()]
    return [*(rows_of(table) for table in tables), *left_out]


def _cell(value: Any) -> str:
    text = "yes" if value is True else "no" if value is False else str(value)
    if isinstance(value, list | tuple):
        text = "; ".join(", ".join(map(str, item.values())) if isinstance(item, dict) else str(item) for item in value)
    return text.replace("|", "/").replace("\n", " ")


def _ran(record: Mapping[str, Any]) -> str:
    machine = record.get("machine", {})
    facts = [f"{name} {value}" for name, value in machine.items() if name != "name" and value is not None]
    versions = [f"{name} {number}" for name, number in rounded(record.get("versions", {})).items()]
    return (
        f"`{record.get('command', '')}` at commit `{record.get('commit', 'unknown')}`, {record.get('began', '')}. "
        f"{', '.join(map(str, rounded(facts)))}. {', '.join(versions)}."
    )
