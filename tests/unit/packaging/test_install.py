"""The environment is whole, whatever interrupted its installation: real make, venv and pip on a project in small."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.packaging.tiny_project import TOOL_BYTES, finish, make_clone, start_install

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with its environment; tests move copies of it."""
    clone = make_clone(tmp_path_factory.mktemp("installed"), b"a program")
    finish(start_install(clone))
    return clone


@pytest.fixture
def moved(installed: Path, tmp_path: Path) -> Path:
    """The same clone in another place, its environment too."""
    return Path(shutil.copytree(installed.parent, tmp_path / "moved", symlinks=True)) / "clone"


def ran(clone: Path) -> str:
    """What the project's command says."""
    return subprocess.run([clone / ".venv/bin/tiny"], capture_output=True, text=True, check=True, cwd="/").stdout


def test_an_installation_killed_in_the_middle_of_a_package_is_mended_by_the_next(tmp_path: Path) -> None:
    clone = make_clone(tmp_path, bytes(TOOL_BYTES))
    tool = clone / ".venv/bin/tool"
    killed = in_the_middle(clone)
    os.killpg(killed.pid, signal.SIGKILL)
    assert tool.stat().st_size < TOOL_BYTES, "it was killed too late to prove anything"
    make = psutil.Process(in_the_middle(clone).pid)
    for process in (make, *make.children()):  # the installer alone: pip goes on, and the next one must wait for it
        process.kill()
    assert tool.stat().st_size < TOOL_BYTES, "it was killed too late to prove anything"
    assert "waiting for it" in finish(start_install(clone))
    assert tool.stat().st_size == TOOL_BYTES
    assert ran(clone) == f"tiny in {clone / 'tiny.py'}\n"


def in_the_middle(clone: Path) -> subprocess.Popen[str]:
    """An installation that has begun to write the dependency's program."""
    tool = clone / ".venv/bin/tool"
    before = tool.stat().st_mtime_ns if tool.exists() else None
    process = start_install(clone)
    while not tool.exists() or tool.stat().st_mtime_ns == before:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    return process


def test_where_all_is_installed_nothing_is_done(installed: Path) -> None:
    began = time.monotonic()
    assert finish(start_install(installed)) == ""
    assert time.monotonic() - began < 2


def test_a_moved_clone_and_what_an_older_makefile_left_half_written_are_mended(moved: Path, installed: Path) -> None:
    """It wrote an empty marker, whatever pip had left."""
    assert str(installed) in (moved / ".venv/bin/tiny").read_text()
    tool, marker = moved / ".venv/bin/tool", moved / ".venv/.installed"
    tool.write_bytes(tool.read_bytes()[:3])
    marker.write_text("")
    assert "needed-1.0.dist-info is not whole" in finish(start_install(moved))
    assert tool.read_bytes() == b"a program"
    assert ran(moved) == f"tiny in {moved / 'tiny.py'}\n"
    for name in ("tiny", "pip", "activate"):
        script = (moved / ".venv/bin" / name).read_text()
        assert str(moved) in script
        assert str(installed) not in script


def test_changed_pins_are_noticed_and_two_makes_at_once_install_once(moved: Path) -> None:
    (moved / "constraints.txt").write_text("needed==2.0\n")
    refused = start_install(moved)
    out, _ = refused.communicate(timeout=120)
    assert refused.returncode != 0
    assert "this step failed" in out
    assert not (moved / ".venv/.installed").exists()
    (moved / "constraints.txt").write_text("needed<2\n")
    said = [finish(process) for process in [start_install(moved), start_install(moved)]]
    assert sum("Installing into" in out for out in said) == 1
    assert finish(start_install(moved)) == ""
