"""What a key of the run file means, for people who have its name: ``medfuncta-dist explain data.shape``."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches
from typing import Any

from medfuncta_dist.config.key_reference import KeyFacts, SectionFacts, sections
from medfuncta_dist.config.presets import PRESETS
from medfuncta_dist.errors import RunFileError

WIDTH = 100
WORDS = {"no": "no: a changed run file is refused", "new run": "another value means another run"}
"""For whether a key may change in a run, where the word in the table says too little."""


def explain(name: str) -> dict[str, Any]:
    """The keys that ``name`` stands for: a key, a section (all of its keys), or the last part of their paths; none:
    the sections. RunFileError where there is none of that name, with those that are spelt nearly the same."""
    every = list(sections())
    keys = {_path(section, key): key for section in every for key in section.keys}
    if not name:
        return {"keys": [], "said": _overview(every)}
    if (found := next((section for section in every if section.path == name), None)) is not None:
        return {"keys": [_facts(_path(found, key), key) for key in found.keys], "said": _of_section(found)}
    matching = {path: key for path, key in keys.items() if path == name or path.endswith(f".{name}")}
    if not matching:
        raise _unknown(name, list(keys) + [section.path for section in every if section.path])
    blocks = [_of_key(path, key) for path, key in matching.items()]
    said = [line for block in blocks for line in ([""] if block is not blocks[0] else []) + block]
    return {"keys": [_facts(path, key) for path, key in matching.items()], "said": said}


def _path(section: SectionFacts, key: KeyFacts) -> str:
    return f"{section.path}.{key.name}".lstrip(".")


def _facts(path: str, key: KeyFacts) -> dict[str, Any]:
    facts = {"key": path, "type": key.type, "default": key.default or None, "required": key.default is None}
    return facts | {"may_change": key.may_change, "meaning": key.about}


def _of_key(path: str, key: KeyFacts) -> list[str]:
    default = {None: "none: it must be given", "": "see its own keys"}.get(key.default, key.default)
    presets = [f"{name} {value}" for name, value in _in_presets(path)]
    return [
        path,
        *_wrapped(key.about.replace("`", "")),
        *_wrapped(key.type.replace("`", ""), "  type        "),
        *_wrapped(str(default), "  default     "),
        *_wrapped(", ".join(presets), "  in presets  "),
        f"  may change  {WORDS.get(key.may_change, key.may_change)}",
    ]


def _in_presets(path: str) -> list[tuple[str, Any]]:
    section, _, key = path.partition(".")
    return [(name, preset[section][key]) for name, preset in PRESETS.items() if key in preset.get(section, {})]


def _of_section(section: SectionFacts) -> list[str]:
    width = max(len(key.name) for key in section.keys)
    lines = [section.path, *_wrapped(section.about.replace("`", "")), ""]
    for key in section.keys:
        lines += _wrapped(key.about.replace("`", ""), f"  {key.name:{width}}  ")
    return lines


def _overview(every: list[SectionFacts]) -> list[str]:
    tops = [section for section in every if section.path and "." not in section.path]
    names = [(key.name, key.about) for section in every if not section.path for key in section.keys]
    names += [(section.path, section.about) for section in tops]
    width = max(len(name) for name, _ in names)
    lines = [line for name, about in names for line in _wrapped(about.replace("`", ""), f"  {name:{width}}  ")]
    return ["The run file's keys and sections; `explain SECTION` and `explain SECTION.KEY` say more.", "", *lines]


def _wrapped(text: str, begin: str = "  ") -> list[str]:
    """Nothing where there is no text."""
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin)) if text else []


def _unknown(name: str, paths: list[str]) -> RunFileError:
    last = {path.rpartition(".")[2]: path for path in paths}
    near = get_close_matches(name, paths, 3) or [last[n] for n in get_close_matches(name.rpartition(".")[2], last, 3)]
    do = f"perhaps {', '.join(near)}" if near else "`medfuncta-dist explain` lists the sections"
    return RunFileError(f"the run file has no key or section {name!r}", do=do)
