"""How far a stage is: the one record that every driver produces, and that the bar, the store and Ray's metrics take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

UNITS = {"pack": "sources", "train": "steps", "fit": "scans", "evaluate": "tasks", "verify": "shards"} | {
    "fingerprint": "sources",
    "data-report": "shards",
    "prior": "steps",
    "sample": "scans",
    "import-latents": "files",
    "export-latents": "scans",
    "catalogue": "scans",
    "probe": "parts",
    "publish": "scans",
    "index": "blocks",
    "near-duplicates": "scans",
}
"""What each stage or command counts."""


class BytesDone(NamedTuple):
    """Bytes of an archive that are dealt with, of all that it has."""

    done: int
    total: int


@dataclass(frozen=True)
class ProgressReport:
    """``done`` of ``total`` units of a stage, earlier runs of it included."""

    stage: str
    done: int
    total: int
    notes: dict[str, float | str] = field(default_factory=dict)
    """Further figures, such as ``quarantined`` or ``loss``. Numbers are shown, stored and exported; text is shown."""
    workers_started: bool = False
    """A group of workers has just begun. Its first unit may take far longer than the others: it compiles."""

    size: BytesDone | None = None
    """The same in bytes, where units differ in size: what is fast or slow is told by bytes then."""

    @property
    def unit(self) -> str:
        """What ``done`` and ``total`` count."""
        return UNITS[self.stage]

    @property
    def figures(self) -> dict[str, float]:
        """The notes that are numbers."""
        return {name: value for name, value in self.notes.items() if not isinstance(value, str)}


OnProgress = Callable[[ProgressReport], None]


def format_bytes(number: float) -> str:
    """``812 B``, ``45 kB``, ``3.4 GB``: powers of 1000, with two digits below ten."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.1f} {unit}" if unit != "B" and number < 9.95 else f"{number:.0f} {unit}"


def format_size(size: BytesDone, per_s: float | None) -> str:
    """``1.2 GB of 3.4 GB, 35 MB/s``, without a rate while none is known."""
    pace = f", {format_bytes(per_s)}/s" if per_s else ""
    return f"{format_bytes(size.done)} of {format_bytes(size.total)}{pace}"


def ignore_progress(report: ProgressReport) -> None:
    """For callers that show no progress."""
