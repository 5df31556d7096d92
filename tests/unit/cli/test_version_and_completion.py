"""--version, shell completion, and how soon --help answers: the installed command, seen from outside."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medfuncta_dist
from medfuncta_dist.submit.manifest.code_commit import COMMIT_VARIABLE, find_code_commit, find_known_commit

COMMAND = str(Path(sys.executable).parent / "medfuncta-dist")
HELP_SECONDS = 0.5


def said(*arguments: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != COMMIT_VARIABLE}
    done = subprocess.run(
        [COMMAND, *arguments], env=kept | environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_the_version_is_told_with_the_commit_of_the_image() -> None:
    version = f"medfuncta-dist {medfuncta_dist.__version__}"
    assert said("--version", **{COMMIT_VARIABLE: "0123abc"}) == f"{version} (commit 0123abc)\n"
    assert re.fullmatch(rf"{re.escape(version)}( \(commit [0-9a-f]{{40}}\))?\n", said("--version"))


@pytest.mark.parametrize("repository", [True, False])
def test_without_git_or_a_repository_the_commit_is_not_known(
    repository: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medfuncta_dist.submit.manifest import code_commit as module

    package = shutil.copytree(Path(module.__file__).parent, tmp_path / "medfuncta_dist" / "submit")
    if repository:
        (tmp_path / ".git").mkdir()
    monkeypatch.setattr(module, "__file__", str(package / "code_commit.py"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    assert find_known_commit() is None
    assert find_code_commit() == f"v{medfuncta_dist.__version__}"


def test_a_command_is_completed() -> None:
    words = {"COMP_WORDS": "medfuncta-dist sub", "COMP_CWORD": "1"}
    assert said(_MEDFUNCTA_DIST_COMPLETE="complete_bash", **words) == "submit\n"


def test_the_completion_of_a_shell_is_installed(tmp_path: Path) -> None:
    shown = said("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete -o default -F _medfuncta_dist_completion medfuncta-dist" in shown
    said("--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    installed = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert any("_medfuncta_dist_completion" in text for text in installed)
    assert (tmp_path / ".bashrc").exists()


def test_help_answers_at_once() -> None:
    """In seconds of processor time, the best of three: another process's load is not ours."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "--install-completion" in said("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < HELP_SECONDS
