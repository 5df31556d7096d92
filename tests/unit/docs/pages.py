"""The pages of the documentation, their code blocks, and the commands in those."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.app import app

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "cluster/README.md", "k8s/README.md")
PAGES = [*(ROOT / name for name in OUTSIDE), *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>\w*)(?:[ ]+title=\"(?P<title>[^\"]*)\")?[ ]*\n(?P<text>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
REMARK = re.compile(r"<!-- (not run|run by): ((?:(?!-->).)+) -->\s*\Z", re.DOTALL)
OURS = "medfuncta-dist"


@dataclass(frozen=True)
class Block:
    """One fenced block. ``remark`` is the comment right before it that says who runs it, or why nobody does."""

    page: str
    line: int
    language: str
    title: str
    text: str
    remark: tuple[str, str] | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        remark = REMARK.search(text[: fence.start()])
        line = text[: fence.start("text")].count("\n")
        said = (remark[1], " ".join(remark[2].split())) if remark else None
        code = textwrap.dedent(fence["text"])
        found.append(
            Block(path.relative_to(ROOT).as_posix(), line, fence["language"], fence["title"] or "", code, said)
        )
    return found


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in any of these languages; without one, all."""
    return [block for path in PAGES for block in blocks(path) if not languages or block.language in languages]


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, as words, without variables before a command and what follows a pipe or a >."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.split(" | ")[0].split(" > ")[0], comments=True)
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        words = [word for word in words if word != "&"]
        if words:
            yield words


def ours() -> list[tuple[str, tuple[str, ...]]]:
    """Page and arguments of every ``medfuncta-dist`` command, each once."""
    found = ((block.page, words) for block in all_blocks("sh", "bash") for words in commands(block))
    return sorted({(page, tuple(words[1:])) for page, words in found if words[0] == OURS})


def parse(arguments: tuple[str, ...]) -> None:
    """Let the command line's own parser take the arguments; it raises what it would say."""
    group: Any = typer.main.get_command(app)
    name, *rest = arguments
    command, words = (group, list(arguments)) if name.startswith("-") else (group.commands[name], rest)
    command.make_context(name, words, resilient_parsing=name.startswith("-"))


def follow(page: str, folder: Path, environment: dict[str, str]) -> dict[int, subprocess.CompletedProcess[str]]:
    """Do what a tutorial says, in ``folder``: keep each block with a title under it, and run each shell block.

    Returns what came of the shell blocks, by line. Blocks that say why they are not run are left out.
    """
    (folder / ".venv").symlink_to(sys.prefix)
    activated = environment | {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    done = {}
    for block in blocks(ROOT / page):
        if block.remark is not None:
            continue
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "sh":
            command = ["bash", "-e", "-c", block.text]
            done[block.line] = subprocess.run(command, cwd=folder, env=activated, capture_output=True, text=True)
    return done
