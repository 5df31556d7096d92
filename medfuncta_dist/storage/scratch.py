"""Temporary folders of this machine: each is held by a lock while its process lives, so that what a killed process
leaves can be told from what is in use.

    <TMPDIR>/medfuncta-<kind>-<8 characters>/.lock     held (flock) by the process that made the folder
    <TMPDIR>/medfuncta-<kind>-<8 characters>/files/    what it works in; readers see all that lies beside a file

The system gives a lock back when its process ends, however it ends. Folders that nobody holds are removed when a
process makes its first one, by each stage's driver, and by ``doctor --clean``.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from medfuncta_dist.errors import DiskFullError
from medfuncta_dist.storage.request_failures import NO_SPACE

LOCK, FILES = ".lock", "files"
NAME = re.compile(r"medfuncta-[a-z]+-[a-z0-9_]{8}")
FREE_SPACE = "free space there, or set TMPDIR to a folder on another disk; then run the same command again"


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A new temporary folder, removed when the block ends. DiskFullError where its disk has no room.

    ``kind``: lowercase letters, part of the folder's name. An OSError of the block that says that a disk is full
    becomes a DiskFullError, which names no file.
    """
    remove_leftovers_once()
    folder = _new_folder(kind)
    try:
        with held(folder):
            (folder / FILES).mkdir()
            yield folder / FILES
    except OSError as error:
        raise disk_full(error) or error from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def process_folder(kind: str) -> Path:
    """The same for as long as this process lives: one folder of each kind."""
    stack = ExitStack()
    folder = stack.enter_context(scratch_folder(kind))
    atexit.register(stack.close)
    return folder


@contextmanager
def temporaries_in(folder: Path) -> Iterator[None]:
    """What a library, or a process that it starts, puts into temporary files meanwhile, even for the life of the
    process, goes into this folder."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable


def temporary_root() -> Path:
    """Where temporary folders are made. DiskFullError where no place can be written."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # what tempfile says, too, where every candidate is full
        what = "no folder for temporary files can be written: the disks are full, or read-only"
        raise DiskFullError(what, where=f"TMPDIR={os.environ.get('TMPDIR', '')}", do=FREE_SPACE) from error


def disk_full(error: BaseException) -> DiskFullError | None:
    """The error to raise where a disk of this machine was full; None where ``error`` says something else."""
    full = isinstance(error, OSError) and error.errno in NO_SPACE
    full = full or getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or type(error).__name__ == "OutOfDiskError"
    if not full:
        return None
    where = f"most likely the folder for temporary files, {tempfile.tempdir or os.environ.get('TMPDIR', '/tmp')}"
    return DiskFullError("a disk of this machine is full", where=where, do=FREE_SPACE)


@contextmanager
def held(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Hold a folder: nobody takes it for a leftover. The lock ends with the process, if not before."""
    new = folder / f"{lock}.new"
    with new.open("w") as handle:
        with suppress(OSError):  # a file system without locks: then nobody can hold it, and nobody removes it
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.replace(folder / lock)  # under its name it is never seen without its holder
        yield


def hold_for_life(folder: Path, lock: str) -> None:
    """Hold a folder until this process ends."""
    stack = ExitStack()
    stack.enter_context(held(folder, lock))
    atexit.register(stack.close)


def is_left(folder: Path, lock: str = LOCK) -> bool:
    """Whether a folder of this user has the lock file of a process that has ended."""
    with suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        with (folder / lock).open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def leftovers() -> list[Path]:
    """Temporary folders that processes of this user have left and nobody holds, by name."""
    with suppress(OSError):
        return sorted(p for p in temporary_root().iterdir() if NAME.fullmatch(p.name) and p.is_dir() and is_left(p))
    return []


def remove_leftovers() -> int:
    """Remove them; how many."""
    found = leftovers()
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return len(found)


@cache
def remove_leftovers_once() -> int:
    """The same, at the first call in this process."""
    return remove_leftovers()


def _new_folder(kind: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f"medfuncta-{kind}-", dir=temporary_root()))
    except OSError as error:
        raise disk_full(error) or error from None
