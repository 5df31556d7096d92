"""What `make dist` builds is whole, and works outside the clone: the short form of `make dist-test`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import medfuncta_dist
from tests.fresh_install import Installed, outside

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "medfuncta_dist", "jobs", "k8s")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the source archive, built from a copy: building writes beside the sources."""
    clone = tmp_path_factory.mktemp("clone")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clone)
    made = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(clone)]
    done = subprocess.run(build, env=outside(), cwd=made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel's files alone; the packages it needs are this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder / "site", wheel]
    subprocess.run(pip, env=outside(), check=True)
    environment = outside() | {"PYTHONPATH": str(folder / "site")}
    return Installed(Path(sys.executable), folder / "site/bin/medfuncta-dist", folder, environment)


def shipped() -> set[str]:
    """Every file of the package in this clone but compiled ones, by its path in an archive."""
    package = Path(medfuncta_dist.__file__).parent
    links = [(package / name, f"medfuncta_dist/{name}") for name in ("jobs", "k8s")]
    files = {
        f"{name}/{file.relative_to(folder)}" for folder, name in links for file in folder.rglob("*") if file.is_file()
    }
    own = {str(f.relative_to(package.parent)) for f in package.rglob("*") if f.suffix in (".py", ".html")}
    return files | {file for file in own if "__pycache__" not in file}


def test_wheel_and_source_archive_hold_the_files_that_the_links_lead_to(dist: Path) -> None:
    (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        packed = {info.filename: info.file_size for info in file.infolist()}
    with tarfile.open(archive) as file:
        sources = {member.name.partition("/")[2]: member for member in file}
    wanted = shipped()
    assert wanted >= {f"medfuncta_dist/{name}" for name in ("k8s/components/gpu/rayjob.yaml", "evaluation/report.html")}
    assert not wanted - packed.keys()
    assert not wanted - sources.keys()
    assert not [name for name, member in sources.items() if member.issym() or member.islnk()]
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/"))]


def test_the_installed_package_is_the_wheels(installed: Installed) -> None:
    assert installed.package() == (installed.folder / "site/medfuncta_dist").resolve()
    assert installed.said("--version") == f"medfuncta-dist {medfuncta_dist.__version__}\n"  # no repository around it


def test_a_submission_is_rendered_from_the_installed_wheel(installed: Installed) -> None:
    job = installed.folder / "site/medfuncta_dist/jobs/chest-xray-64.yaml"
    assert installed.dry_run(job, "pack", "train") == ["chest-xray-64-pack-1", "chest-xray-64-train-1"]
