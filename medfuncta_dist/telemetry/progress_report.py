"""How far a stage is: the one record that every driver produces, and that the bar, the store and Ray's metrics take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

UNITS = {"pack": "sources", "train": "steps", "fit": "scans", "evaluate": "tasks", "verify": "shards"} | {
    "fingerprint": "sources",
    "data-report": "shards",
}
"""What each stage or command counts."""


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

    @property
    def unit(self) -> str:
        """What ``done`` and ``total`` count."""
        return UNITS[self.stage]

    @property
    def figures(self) -> dict[str, float]:
        """The notes that are numbers."""
        return {name: value for name, value in self.notes.items() if not isinstance(value, str)}


OnProgress = Callable[[ProgressReport], None]


def ignore_progress(report: ProgressReport) -> None:
    """For callers that show no progress."""
