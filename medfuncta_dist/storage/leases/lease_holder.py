"""The holder of a lease: one process on one machine, and whether that process has ended."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Holder:
    """A process. It says nothing about the user: no name, no command, no folder."""

    id: str
    """Random: two holders are never the same."""
    host: str
    boot: str
    """The kernel's boot id; "" where the system has none, and then nothing is known about its processes."""
    space: str
    """The process namespace: the same number is another process in another container."""
    pid: int
    started: str
    """The process's start time in clock ticks since boot: it tells two processes of the same number apart."""

    @classmethod
    def of(cls, body: dict[str, Any]) -> Holder:
        """From a lease's body (KeyError, TypeError if a field is missing or invalid)."""
        return cls(**{name: kind(body[name]) for name, kind in _FIELDS.items()})

    def fields(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


_FIELDS: dict[str, type] = {"id": str, "host": str, "boot": str, "space": str, "pid": int, "started": str}


def this_process() -> Holder:
    """A new holder for this process."""
    pid = os.getpid()
    return Holder(secrets.token_hex(8), socket.gethostname(), _boot(), _space(), pid, _started(pid) or "")


def has_ended(holder: Holder) -> bool:
    """Whether the holder's process is known to have ended.

    False where that is unknown: another machine, another container, a system without /proc.
    """
    here = (socket.gethostname(), _boot(), _space())
    if not all(here) or here != (holder.host, holder.boot, holder.space):
        return False
    return _started(holder.pid) != holder.started


def _started(pid: int) -> str | None:
    """The start time of a running process; None if it has ended, a zombie included."""
    try:
        # The second field, the command in brackets, may itself hold spaces and brackets (proc(5)).
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return ""
