"""Calling a command within this process, with what it wrote to its real stdout; and the run file that it is given."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medfuncta_dist.cli.app import app
from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from tests.writers import write_medmnist


def write_run_file(folder: Path, run: RunFile) -> str:
    """Write ``run.yaml`` and its scans into the folder; the file's name."""
    write_medmnist(folder / "scans.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    (folder / "run.yaml").write_text(dump(run))
    return "run.yaml"


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and stdout of ``medfuncta-dist ARGUMENTS``."""
    capfd.readouterr()
    stdout = os.dup(1)  # a command sends descriptor 1 to stderr for good: its process is about to end
    code = CliRunner().invoke(app, list(arguments)).exit_code
    os.dup2(stdout, 1)
    os.close(stdout)
    return code, capfd.readouterr().out


def call_json(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The one JSON object of a command."""
    (line,) = call(capfd, *arguments, "--json")[1].splitlines()
    return dict(json.loads(line))


def call_printed(capfd: pytest.CaptureFixture[str], text: str) -> list[str]:
    """Run the commands of a printed line, joined by ``&&``; each must succeed. Returns what each printed."""
    printed = []
    for command in text.split(" && "):
        program, *arguments = shlex.split(command)
        assert program == "medfuncta-dist"
        code, out = call(capfd, *arguments)
        assert code == 0, f"{command}: {out}"
        printed.append(out.strip())
    return printed
