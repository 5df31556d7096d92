"""The files that run the Makefile's commands elsewhere: GitHub's workflow, and the hooks before a commit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PINNED_ACTION = re.compile(r"actions/[a-z-]+@v\d+")


def make_dry_run(target: str) -> str:
    """What make would run for a target; it must know it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target, "VENV=.venv"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def hooks() -> list[dict[str, Any]]:
    whole = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    return [hook for repository in whole["repos"] for hook in repository["hooks"]]


def commands(job: dict[str, Any]) -> list[str]:
    """Every command of a job, once for each target of its matrix."""
    targets = job.get("strategy", {}).get("matrix", {}).get("target", [""])
    steps = [step["run"] for step in job["steps"] if "run" in step]
    return [step.replace("${{ matrix.target }}", target) for step in steps for target in targets]


def test_the_workflow_runs_targets_that_the_makefile_has(workflow: dict[Any, Any]) -> None:
    run = [command for job in workflow["jobs"].values() for command in commands(job)]
    assert {"make test", "make check", "make quickstart"} <= set(run)
    for command in run:
        words = command.split()
        assert words[0] == "make"
        for target in words[1:]:
            assert make_dry_run(target)


def test_the_workflow_may_only_read_and_its_actions_are_pinned(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert PINNED_ACTION.fullmatch(step["uses"]) if "uses" in step else step["run"]


def test_the_readmes_commands_are_those_that_the_workflow_runs(workflow: dict[Any, Any]) -> None:
    readme = re.findall(r"^make \w[\w-]*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert readme
    assert set(readme) <= {command for job in workflow["jobs"].values() for command in commands(job)}


def test_the_hooks_are_what_make_check_runs(hooks: list[dict[str, Any]]) -> None:
    check = {line.removeprefix(".venv/bin/") for line in make_dry_run("check").splitlines() if ".venv/bin/" in line}
    names = {command.removesuffix(" .").removesuffix(" --check") for command in check if "install.py" not in command}
    assert {hook["name"] for hook in hooks} == names
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].removesuffix(" --force-exclude") == f".venv/bin/{hook['name']}"
