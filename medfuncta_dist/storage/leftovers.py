"""What earlier commands of this user have left on this machine, and how it is kept small.

    medfuncta-<kind>-<8 characters>      temporary folders (scratch.py); those of ended processes go at once
    ray/session_*                        of a Ray that a command started here; the newest few stay, for their logs
    medfuncta-work/<run>/wandb           offline runs of Weights & Biases, the user's: the newest of each id stays

Nothing is removed that has no lock file of ours, or whose lock is held, and nothing of other users.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from medfuncta_dist.storage.scratch import LOCK, NAME, is_left, leftovers, temporary_root

SESSION_LOCK = "medfuncta.lock"
KEPT_SESSIONS = 3
"""Of Ray, by commands: a session has some megabytes of logs."""
WORK = "medfuncta-work"
KEPT_OFFLINE_RUNS = 20
"""Per run: one for each attempt. More only of those that were not uploaded."""
OLD_S = 24 * 3600.0
"""Age from which a temporary folder without a lock, as earlier versions made them, counts as left."""


@dataclass(frozen=True)
class Leftovers:
    """Folders that may be removed now, by kind."""

    scratch: list[Path]
    sessions: list[Path]

    @property
    def folders(self) -> list[Path]:
        """All of them."""
        return [*self.scratch, *self.sessions]

    @property
    def size(self) -> int:
        """Bytes of their files."""
        return sum(map(folder_bytes, self.folders))


def find_leftovers() -> Leftovers:
    """Everything that ``doctor --clean`` removes."""
    sessions = left_sessions(Path(os.environ.get("RAY_TMPDIR") or temporary_root()) / "ray")
    return Leftovers([*leftovers(), *_without_lock()], sessions)


def remove_all(found: Leftovers) -> int:
    """Remove what was found; how many folders are gone."""
    for folder in found.folders:
        shutil.rmtree(folder, ignore_errors=True)
    return sum(not folder.exists() for folder in found.folders)


SYNCED = ".synced"
OFFLINE_RUNS = (
    "{} offline runs of Weights & Biases wait on this machine; none that holds what nothing else does is ever removed: "
    "`wandb sync {}/offline-run-*` uploads them, after which all but the newest go; delete those that nobody needs"
)


def left_sessions(root: Path) -> list[Path]:
    """Session folders of Rays that commands of ours started and whose processes have all ended, oldest first."""
    with suppress(OSError):
        found = [folder for folder in sorted(root.glob("session_*")) if is_left(folder, SESSION_LOCK)]
        running = _command_lines() if found else ""
        return [folder for folder in found if folder.name not in running]
    return []


def remove_sessions(root: Path, keep: int) -> int:
    """Remove all but the newest ``keep`` of them; how many."""
    going = left_sessions(root)
    going = going[: max(0, len(going) - keep)]
    for folder in going:
        shutil.rmtree(folder, ignore_errors=True)
    return len(going)


def prune_offline_runs(work: Path, say: Callable[[str], object]) -> int:
    """Remove the oldest offline runs of a run's local folder that nobody misses: ``KEPT_OFFLINE_RUNS`` are left with
    the next one. How many.

    Nobody misses one that has been synced, or without pictures, one with the same id as a later one: that has all of
    its numbers (``telemetry/wandb_runs``). Others exist nowhere else, and are kept; with more of them than that,
    ``say`` gets a line.
    """
    folders = sorted((work / "wandb").glob("offline-run-*"))
    too_many, newest = folders[: -(KEPT_OFFLINE_RUNS - 1)], {_id_of(folder): folder for folder in folders}
    going = [folder for folder in too_many if _is_synced(folder) or _is_superseded(folder, newest[_id_of(folder)])]
    for folder in going:
        shutil.rmtree(folder, ignore_errors=True)
    if len(going) < len(too_many):
        say(OFFLINE_RUNS.format(len(folders) - len(going), work / "wandb"))
    return len(going)


def _is_synced(folder: Path) -> bool:
    """`wandb sync` leaves a file beside the log of a run that it has uploaded. Without a log nothing can be lost."""
    logs = list(folder.glob("*.wandb"))
    return all(log.with_name(log.name + SYNCED).exists() for log in logs)


def _id_of(folder: Path) -> str:
    """The id of the W&B run that an offline run is of: offline-run-<date>_<time>-<id>."""
    return folder.name.split("-", 3)[-1]


def _is_superseded(folder: Path, newest: Path) -> bool:
    """Whether the newest of its id has all that it has."""
    return folder != newest and not (folder / "files" / "media").exists()


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    return total


def _without_lock() -> list[Path]:
    """Temporary folders of earlier versions, a day old, in which no process of this user works."""
    found = []
    with suppress(OSError):
        for folder in sorted(temporary_root().iterdir()):
            if NAME.fullmatch(folder.name) and not folder.is_symlink() and folder.is_dir() and _is_old(folder):
                found.append(folder)
    used = _open_files() if found else ""
    return [folder for folder in found if f"{folder}/" not in used]


def _is_old(folder: Path) -> bool:
    status = folder.stat()
    mine = psutil.Process().uids().real == status.st_uid
    return mine and not (folder / LOCK).exists() and time.time() - status.st_mtime > OLD_S


def _command_lines() -> str:
    """Of all processes, one a line."""
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def _open_files() -> str:
    """Paths that processes of this user have open, or work in, one a line."""
    paths: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            paths += [file.path for file in process.open_files()]
            paths.append(f"{process.cwd()}/")
    return "\n".join(paths)
