"""Chunks of scans and points: how much of a batch the sweeps hold at once.

They bound activation memory, whatever the resolution and the batch. They change the order of sums and so the last bits:
chosen once when a run starts, and recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medfuncta_dist.errors import RunFileError

ACTIVATION_BYTES = 2**21
"""2 MB: on a CPU, the speed of larger chunks is the same within 2 %, at hidden widths of 64 and 256 alike."""

POINTS = 1024


@dataclass(frozen=True)
class Chunks:
    """Most points, and most scans, of one sweep."""

    points: int
    scans: int

    def __post_init__(self) -> None:
        if min(self.points, self.scans) < 1:
            raise RunFileError(f"chunks need at least one point and one scan, got {self.points} and {self.scans}")

    @classmethod
    def sized(cls, hidden: int, activation_bytes: int = ACTIVATION_BYTES) -> Chunks:
        """Chunks whose float32 activations of one layer take about ``activation_bytes``; a sweep holds 4K of these."""
        rows = max(1, activation_bytes // (4 * hidden))
        points = min(POINTS, rows)
        return cls(points, rows // points)

    def blocks(self, scans: int, points: int) -> Iterator[tuple[slice, slice]]:
        """Every (scans, points) block of a batch, fixed by position: all points of some scans, then the next scans."""
        for scan in range(0, scans, self.scans):
            for point in range(0, points, self.points):
                yield slice(scan, min(scan + self.scans, scans)), slice(point, min(point + self.points, points))
