"""The files of this package as it is installed here: in a wheel's environment, or in a clone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

DATA = ("cluster", "docs", "jobs", "k8s")
"""Folders of the package that hold data. In a clone they are links, and docs/ has scripts beside its pages."""


@dataclass(frozen=True)
class Content:
    """What a file holds, and whether it is a program."""

    data: bytes
    executable: bool = False


Tree = dict[str, Content]
"""Content by path, with slashes, relative to the tree's folder."""


def find_package() -> Path:
    """Where the package is imported from."""
    return Path(str(files("medfuncta_dist")))


def read_data_folder(name: str) -> Tree:
    """All files of one of the package's data folders, as a wheel has them."""
    return dict(sorted(_read_below(find_package() / name, is_data=True)))


def read_package() -> Tree:
    """All files of the package, below ``medfuncta_dist/``, as a wheel has them."""
    package = find_package()
    found = {f"{package.name}/{name}": content for name, content in _read_below(package, is_data=False)}
    for folder in DATA:
        found |= {f"{package.name}/{folder}/{name}": content for name, content in read_data_folder(folder).items()}
    return dict(sorted(found.items()))


def read_file(name: str) -> bytes:
    """One file of the package, by its path in it."""
    return (find_package() / name).read_bytes()


def _read_below(top: Path, *, is_data: bool) -> Iterator[tuple[str, Content]]:
    """(path, content) of the files below ``top``, but compiled and hidden ones, and scripts among data."""
    for place, folders, names in os.walk(top):
        skipped = () if is_data or Path(place) != top else DATA
        folders[:] = [name for name in folders if name not in ("__pycache__", *skipped)]
        for name in names:
            path = Path(place, name)
            if not (name.startswith(".") or path.suffix == ".pyc" or (is_data and path.suffix == ".py")):
                yield path.relative_to(top).as_posix(), Content(path.read_bytes(), os.access(path, os.X_OK))
