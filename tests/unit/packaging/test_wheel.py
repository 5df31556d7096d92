"""What `make dist` builds is whole, and works outside the clone: the short form of `make dist-test`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import medfuncta_dist
from medfuncta_dist.deploy.package_files import DATA
from tests.fresh_install import Installed, outside
from tests.image_steps import Image, instructions

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "medfuncta_dist", *DATA)
WANTED = (
    "k8s/components/gpu/rayjob.yaml",
    "evaluation/report.html",
    "cluster/Dockerfile",
    "docs/index.md",
    "publication/card.md",
)


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
    links = [(package / name, f"medfuncta_dist/{name}") for name in DATA]
    files = {
        f"{name}/{file.relative_to(folder)}"
        for folder, name in links
        for file in folder.rglob("*")
        if file.is_file() and not file.match("docs/tools/*") and not file.name.startswith(".")
    }
    kinds = (".py", ".html", ".css", ".txt", ".toml", ".md")
    own = {str(f.relative_to(package.parent)) for f in package.rglob("*") if f.suffix in kinds}
    return files | {file for file in own if "__pycache__" not in file}


def test_wheel_and_source_archive_hold_the_files_that_the_links_lead_to(dist: Path) -> None:
    (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        packed = {info.filename: info.file_size for info in file.infolist()}
    with tarfile.open(archive) as file:
        sources = {member.name.partition("/")[2]: member for member in file}
    wanted = shipped()
    assert wanted >= {f"medfuncta_dist/{name}" for name in WANTED}
    assert not wanted - packed.keys()
    assert not wanted - sources.keys()
    assert not [name for name, member in sources.items() if member.issym() or member.islnk()]
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/", "medfuncta_dist/docs/tools"))]


def test_the_installed_package_is_the_wheels(installed: Installed) -> None:
    assert installed.package() == (installed.folder / "site/medfuncta_dist").resolve()
    assert installed.said("--version") == f"medfuncta-dist {medfuncta_dist.__version__}\n"  # no repository around it


def test_a_submission_is_rendered_from_the_installed_wheel(installed: Installed) -> None:
    job = installed.folder / "site/medfuncta_dist/jobs/chest-xray-64.yaml"
    assert installed.dry_run(job, "pack", "train") == ["chest-xray-64-pack-1", "chest-xray-64-train-1"]


def test_manifests_of_the_installed_wheel_are_the_repositorys(installed: Installed) -> None:
    """With no clone at hand: the folder, and an overlay of a user's that stands on it, are built there."""
    answer = json.loads(installed.said("manifests", "medfuncta", "--json"))
    folder = installed.folder / "medfuncta"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == set(answer["files"]) == set(answer["written"])
    assert {"k8s/base/kustomization.yaml", "k8s/README.md", "docs/operations.md", "docs/report.png"} <= files
    for name in files:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert os.access(folder / "k8s/acceptance.sh", os.X_OK)


def test_the_image_of_the_installed_wheel_has_the_same_code(installed: Installed, dist: Path) -> None:
    """The wheel in the build context was made from installed files: it holds what the one from the sources holds."""
    images = json.loads(installed.said("image", "image", "--json"))["images"]
    assert images["cuda"] == f"medfuncta-dist:{medfuncta_dist.__version__}-ray{version('ray')}"
    context = installed.folder / "image"
    (built,), (made,) = dist.glob("*.whl"), context.glob("*.whl")
    assert made.name == built.name
    assert unpacked(made) == unpacked(built)
    assert (context / "constraints.txt").read_bytes() == (ROOT / "constraints.txt").read_bytes()
    assert (context / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()


def test_the_steps_of_the_written_dockerfile_end_in_an_image_that_works(installed: Installed, tmp_path: Path) -> None:
    """All but the installation of the packages and what changes the system; in this environment's place of them."""
    context = tmp_path / "context"
    installed.said("image", context)
    image = Image(tmp_path / "image", context)
    environment = image.inside("/opt/medfuncta")
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/*/site-packages")
    (site / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = environment / "bin/pip"
    pip.write_text(f'#!/bin/sh\nexec {environment}/bin/python -m pip "$@"\n')
    pip.chmod(0o755)
    steps = instructions(context / "Dockerfile")
    for stage in ("base", "wheel", "node", "cpu"):
        for instruction, rest in steps[stage]:
            image.take(instruction, rest)
    assert (image.done, image.left_out) == (1, 2)
    said = subprocess.run(
        [environment / "bin/medfuncta-dist", "--version"], env=outside(), capture_output=True, text=True
    )
    assert said.stdout == f"medfuncta-dist {medfuncta_dist.__version__}\n"
    assert (site / "medfuncta_dist/k8s/base/rayjob.yaml").is_file()


def unpacked(wheel: Path) -> dict[str, tuple[bytes, int]]:
    """Content and permissions of each file of a wheel, but for the record, whose order is free."""
    with zipfile.ZipFile(wheel) as file:
        found = {info.filename: (file.read(info), info.external_attr >> 16 & 0o111) for info in file.infolist()}
    return {name: held for name, held in found.items() if not name.endswith(("/RECORD", "/"))}
