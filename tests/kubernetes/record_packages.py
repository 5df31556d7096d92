"""Records anew which packages the server is built from: ``python -m tests.kubernetes.record_packages FOLDER``.

For when sid has gone on so far that the recorded ones no longer build: it downloads all that the two packages depend on
(300 MB), asks the compiler which of it the server imports, and writes ``packages.tsv``. Then build, and run the tests.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.kubernetes.build_server import (
    PINS,
    PROGRAM,
    Package,
    download_packages,
    find_dependencies,
    run_go,
    unpack_compiler,
    unpack_packages,
)

WANTED = ("golang-k8s-apiextensions-apiserver-dev", "etcd-server")


def find_imported(imported: Iterable[Path], debs: Iterable[Path]) -> set[str]:
    """The names of the packages in which these folders (below /) have Go files."""
    folders = {str(folder) for folder in imported}
    return {deb.name.partition("_")[0] for deb in debs if folders & set(_list_go_folders(deb))}


def _list_go_folders(deb: Path) -> list[str]:
    listed = subprocess.run(["dpkg-deb", "--contents", str(deb)], capture_output=True, text=True, check=True).stdout
    files = (line.split()[5].lstrip(".") for line in listed.splitlines())
    return [file.rpartition("/")[0] for file in files if file.endswith(".go")]


def format_pins(packages: Iterable[Package]) -> str:
    """The table, a package a line."""
    return "".join("\t".join(package) + "\n" for package in sorted(packages))


def main(folder: Path) -> None:
    """Write the table. ``folder`` holds 3 GB afterwards, and may be deleted."""
    names = [name for name in find_dependencies(folder, WANTED) if name.startswith("golang-")]
    packages = download_packages(folder, [*names, "etcd-server"])
    tree = unpack_packages(folder)
    listing = run_go(
        unpack_compiler(folder), tree, "list", "-deps", "-f", "{{if not .Standard}}{{.Dir}}{{end}}", PROGRAM
    )
    imported = ("/" / Path(line).relative_to(tree) for line in listing.splitlines() if line)
    needed = find_imported(imported, (folder / "debs").glob("*.deb")) | {"etcd-server"}
    PINS.write_text(format_pins(package for package in packages if package.name in needed))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
