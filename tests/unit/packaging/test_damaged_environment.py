"""What `.ci/install.py` takes for whole, and for damaged: an environment made by hand, without pip."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The installer, as a module, of a clone that has nothing but its pins."""
    spec = importlib.util.spec_from_file_location("installer", ROOT / ".ci" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in module.PINS:
        (clone / name).write_text("first")
    monkeypatch.setattr(module, "ROOT", clone)
    return module


@pytest.fixture
def environment(installer: ModuleType, tmp_path: Path) -> Any:
    """Two whole packages: `one` with a module and a script, `two` with a module."""
    folder = tmp_path / "environment"
    venv.create(folder)
    made = installer.Environment(folder)
    script = made.bin / "one"
    script.write_text(f"#!{made.python}\nprint('one')\n")
    add(made, "one", {"one.py": b"one = 1\n", f"../../../{script.relative_to(folder)}": script.read_bytes()})
    add(made, "two", {"two/__init__.py": b"two = 2\n"})
    return made


def add(environment: Any, name: str, files: dict[str, bytes]) -> None:
    """Install a package: its files, and a RECORD with their digests."""
    [site] = environment.packages()
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    rows = [f"{metadata.name}/RECORD,,", f"__pycache__/{name}.pyc,,"]
    for path, content in files.items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    (metadata / "RECORD").write_text("\n".join(rows) + "\n")


def damaged(environment: Any) -> list[str]:
    return [package.name.partition("-")[0] for package in environment.damaged()]


def test_what_was_installed_whole_is_whole(environment: Any) -> None:
    assert damaged(environment) == []


def test_a_file_that_was_cut_short_or_is_missing_condemns_its_package_alone(environment: Any) -> None:
    [site] = environment.packages()
    (site / "one.py").write_bytes(b"one =")
    assert damaged(environment) == ["one"]
    (site / "two/__init__.py").unlink()
    assert damaged(environment) == ["one", "two"]


def test_a_package_without_a_record_is_damaged(environment: Any) -> None:
    [site] = environment.packages()
    (site / "two-1.0.dist-info/RECORD").unlink()
    assert damaged(environment) == ["two"]


def test_a_script_that_starts_another_environments_python_is_damaged(environment: Any) -> None:
    """Its digest is right: whoever moved the environment moved RECORD with it."""
    foreign = b"#!/elsewhere/bin/python\nprint('three')\n"
    portable = b"#!/usr/bin/env python\nprint('four')\n"
    up = f"../../../{environment.bin.name}"
    add(environment, "three", {f"{up}/three": foreign})
    add(environment, "four", {f"{up}/four": portable})
    add(environment, "five", {"five/not_a_script.py": foreign})
    assert damaged(environment) == ["three"]


def test_a_file_that_two_packages_bring_is_as_one_of_them_has_it(environment: Any) -> None:
    [site] = environment.packages()
    add(environment, "three", {"shared/LICENSE": b"of three"})
    add(environment, "four", {"shared/LICENSE": b"of four"})
    for content in (b"of three", b"of four"):
        (site / "shared/LICENSE").write_bytes(content)
        assert damaged(environment) == []
    (site / "shared/LICENSE").write_bytes(b"of thr")
    assert damaged(environment) == ["four", "three"]


@pytest.mark.parametrize("pin", ["pyproject.toml", "constraints.txt"])
def test_changed_pins_make_it_unfinished_until_it_is_installed_again(
    environment: Any, installer: ModuleType, pin: str
) -> None:
    assert not environment.is_whole(), "nothing says that an installation ended"
    environment.marker.write_text(environment.digest())
    assert environment.is_whole()
    (installer.ROOT / pin).write_text("second")
    assert not environment.is_whole()
    (installer.ROOT / pin).write_text("first")
    assert environment.is_whole()


def test_an_environment_whose_clone_moved_or_whose_python_is_gone_is_not_whole(
    environment: Any, installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.marker.write_text(environment.digest())
    with monkeypatch.context() as patch:
        patch.setattr(installer, "ROOT", Path(installer.ROOT.rename(installer.ROOT.with_name("moved"))))
        assert not environment.is_whole()
        installer.ROOT.rename(installer.ROOT.with_name("clone"))
    assert environment.is_whole()
    environment.python.unlink()
    assert not environment.is_whole()
