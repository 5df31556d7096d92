"""An archive of signals in CSV files, in which each scan says which one it is, by its first two values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from s3fs import S3FileSystem

POINTS = 64
ROWS = 1000
"""Scans per file. Values have three decimals, so that the second one can be the row."""
CELLS = np.array([f"{n / 1000:.3f},".encode() for n in range(1000)])


@dataclass(frozen=True)
class MadeArchive:
    """``scans`` signals below ``folder`` (bucket and prefix), at most a million."""

    folder: str
    scans: int

    @property
    def files(self) -> int:
        """CSV files."""
        return math.ceil(self.scans / ROWS)

    def rows(self, number: int) -> int:
        """Scans of a file."""
        return min(ROWS, self.scans - number * ROWS)

    def places(self) -> Iterator[tuple[int, int]]:
        """File and row of every scan."""
        return ((number, row) for number in range(self.files) for row in range(self.rows(number)))

    def write(self, files: S3FileSystem) -> None:
        """All of it, the same at any time."""
        for number in range(self.files):
            files.pipe_file(f"{self.folder}/{file_name(number)}", csv_of(signals(number, self.rows(number))))


def file_name(number: int) -> str:
    """Name of a file below the archive's folder."""
    return f"{number:06d}.csv"


def signals(number: int, rows: int) -> Float[np.ndarray, "scan point"]:
    """Signals of a file, in thousandths: file and row, then three waves of the scan's own."""
    random = np.random.default_rng(number)
    rate, phase, size = (random.uniform(low, high, (rows, 3, 1)) for low, high in ((1, 6), (0, 7), (50, 160)))
    waves = (size * np.sin(rate * np.linspace(0, math.tau, POINTS) + phase)).sum(1) + 500
    found = np.clip(waves, 0, 999)
    found[:, 0], found[:, 1] = number, np.arange(rows)
    return found


def csv_of(values: Float[np.ndarray, "scan point"]) -> bytes:
    """The lines of a file, as values between 0 and 1."""
    cells = CELLS[values.astype(np.int64)]
    return b"\n".join(row.tobytes()[:-1] for row in cells) + b"\n"
