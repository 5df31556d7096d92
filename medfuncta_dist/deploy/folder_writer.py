"""Write files into a folder of the user's without losing what is in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.deploy.package_files import Content
from medfuncta_dist.errors import MedfunctaError, RunFileError

MODES = {False: 0o644, True: 0o755}
NAMED = 5
"""Files that a message names; of more, it gives the number."""


@dataclass(frozen=True)
class Comparison:
    """Paths of files, by what lies in the folder already: nothing, another content, the same."""

    new: tuple[str, ...]
    different: tuple[str, ...]
    same: tuple[str, ...]


def write_folder(folder: Path, files: Mapping[str, Content], *, force: bool) -> Comparison:
    """Write the files that the folder does not have yet, and with ``force`` those that it has with another content.

    RunFileError, before anything is written, when such a file would be replaced without ``force``, or a folder is in a
    file's place. MedfunctaError when the folder cannot be written.
    """
    try:
        found = compare(folder, files)
        if found.different and not force:
            raise RunFileError(
                f"{_named(found.different)} would be replaced: changed, or of another version; nothing was written",
                where=str(folder),
                do="name another folder, or give --force to replace them",
            )
        for name in (*found.new, *found.different):
            _write(folder / name, files[name])
    except OSError as error:
        where = str(error.filename or folder)
        raise MedfunctaError(
            f"the folder cannot be written: {error.strerror}", where=where, do="name another folder"
        ) from error
    return found


def compare(folder: Path, files: Mapping[str, Content]) -> Comparison:
    """What writing these files would do. RunFileError where a folder and a file would have the same name."""
    states: dict[str, list[str]] = {"new": [], "different": [], "same": []}
    for name, content in files.items():
        states[_state(folder, name, content)].append(name)
    return Comparison(*(tuple(states[state]) for state in ("new", "different", "same")))


def _state(folder: Path, name: str, content: Content) -> str:
    path = folder / name
    if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
        raise RunFileError(
            f"{name} cannot be written: a file and a folder would have the same name",
            where=str(folder),
            do="name another folder",
        )
    if not os.path.lexists(path):
        return "new"
    return "same" if path.is_file() and path.read_bytes() == content.data else "different"


def _write(path: Path, content: Content) -> None:
    """Write one file, whole or not at all. A link in its place is replaced, and what it leads to is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, written = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.data)
        os.chmod(written, MODES[content.executable])
        os.replace(written, path)
    except BaseException:
        os.unlink(written)
        raise


def _named(names: tuple[str, ...]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
