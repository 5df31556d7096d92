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


def sweep_bytes(layers: int, hidden: int) -> int:
    """Bytes of float32 that the largest sweep, the directional one, holds per point of a scan (docs/method.md, 4)."""
    return 4 * 4 * max(1, layers - 1) * hidden


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

    @classmethod
    def within(cls, memory: int, layers: int, hidden: int, scans: int, points: int) -> Chunks:
        """The largest chunks of a batch whose sweep holds at most about ``memory`` bytes: all scans, if one point of
        each fits, and as many points as then do."""
        rows = max(1, memory // sweep_bytes(layers, hidden))
        return cls(min(points, max(1, rows // scans)), min(scans, rows))

    def halved(self) -> Chunks:
        """Half as many points; where there is one, half as many scans."""
        return Chunks(self.points // 2, self.scans) if self.points > 1 else Chunks(1, max(1, self.scans // 2))

    def blocks(self, scans: int, points: int) -> Iterator[tuple[slice, slice]]:
        """Every (scans, points) block of a batch, fixed by position: all points of some scans, then the next scans."""
        for scan in range(0, scans, self.scans):
            for point in range(0, points, self.points):
                yield slice(scan, min(scan + self.scans, scans)), slice(point, min(point + self.points, points))
