"""docs/reference/cli.md, written from the commands themselves:
``python docs/tools/cli_page.py > docs/reference/cli.md``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from enum import Enum, EnumType
from typing import Any

import typer

HEAD = """\
# Command line

`medfuncta-dist COMMAND --help` shows the same text in a terminal. Progress and logs go to stderr, the answer to stdout;
with `--json`, the answer is one JSON object. This page is generated from the code
(`python docs/tools/cli_page.py > docs/reference/cli.md`).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | any other error |
| 2 | wrong usage, or an invalid run file |
| 3 | finished, with quarantined scans (0 inside a submitted job) |
| 4 | integrity failure |
| 5 | preempted or interrupted: run the same command again to resume |
"""


def page() -> str:
    """The whole page as Markdown."""
    from medfuncta_dist.cli.app import app

    group: Any = typer.main.get_command(app)
    shared = [parameter for parameter in group.params if parameter.name != "help"]
    parts = [HEAD, *(["", "## Options without a command", "", *_options(shared)] if shared else [])]
    for name, command in group.commands.items():
        if not command.hidden:
            parts += _command(name, command)
    return "\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    usage = " ".join(["medfuncta-dist", name, *("[OPTIONS]" for _ in options[:1]), *map(_metavar, arguments)])
    yield f"\n## `{name}`\n\n{_text(command.help)}\n\n```text\n{usage}\n```\n"
    if arguments:
        yield "| argument | meaning |\n|---|---|"
        yield from (f"| `{_escaped(_metavar(argument))}` | {_text(argument.help)} |" for argument in arguments)
        yield ""
    yield from _options(options)


def _options(options: list[Any]) -> Iterator[str]:
    yield "| option | default | meaning |\n|---|---|---|"
    for option in options:
        names = ", ".join(f"`{name}`" for name in sorted([*option.opts, *option.secondary_opts], key=len, reverse=True))
        value = "" if option.is_flag else f" `{_escaped(_metavar(option))}`"
        yield f"| {names}{value} | {_default(option)} | {_text(option.help)}{_variable(option)} |"


def _metavar(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, EnumType):
        return "|".join(str(choice.value) for choice in kind)
    return "TEXT" if kind in (str, list[str]) else kind.__name__.upper()


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default() if callable(option.default) else option.default
    if value is None or value is False or value in ([], ()):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _variable(option: Any) -> str:
    return f" Also the variable `{option.envvar}`." if option.envvar else ""


def _text(text: str | None) -> str:
    """Help as Markdown: options and braces as code, bars escaped."""
    plain = " ".join((text or "").split())
    return re.sub(r"(?<![\w`-])(--[a-z-]+(?: [\w.]+=\S*\w)?)", r"`\1`", _escaped(plain))


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    print(page(), end="")
