"""One-dimensional signals in CSV, a row per scan.

Rows of 188 numbers are in the MIT-BIH layout (Kaggle's heartbeat files): 187 samples, then the label. Rows of any other
length are samples only. A first line without a single number is a header. Rows are counted from 0, header and empty
lines left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found, refusing
from medfuncta_dist.scans.scan import Scan, stored

MIT_BIH_SAMPLES = 187
MAX_LINE = 2**24
"""Characters: more than half a million samples per row."""


class EcgCsvReader:
    """Scans ``row/0``, ``row/1``, ... with one channel; a damaged row is refused alone."""

    name = "ecg-csv"
    suffixes: tuple[str, ...] = (".csv",)

    def scans(self, path: Path) -> Iterator[Found]:
        """All rows. The first one says how many numbers a row has."""
        with refusing("not a readable CSV file"):
            file = path.open(encoding="ascii", errors="replace", newline=None)
        with file:
            rows = _rows(file)
            first = next(rows, None)
            if first is None:
                raise ScanError("a CSV file without rows")
            for number, fields in enumerate(chain([first], rows)):
                yield Found(f"row/{number}", None, _scan_or_error(fields, len(first)))


def _rows(file: IO[str]) -> Iterator[list[str]]:
    """Fields of each row, without header and empty lines."""
    at_start = True
    while line := _line(file):
        fields = line.strip().split(",")
        header = at_start and not any(_is_number(field) for field in fields)
        at_start = at_start and not line.strip()
        if line.strip() and not header:
            yield fields


def _line(file: IO[str]) -> str:
    with refusing("the CSV file is damaged"):
        line = file.readline(MAX_LINE)
    if len(line) == MAX_LINE:
        raise ScanError("a line of the CSV file is too long")
    return line


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _scan_or_error(fields: list[str], expected: int) -> Scan | ScanError:
    try:
        return _scan(fields, expected)
    except ScanError as error:
        return error


def _scan(fields: list[str], expected: int) -> Scan:
    if len(fields) != expected:
        raise ScanError(f"a row of {len(fields)} fields in a file of {expected}")
    with refusing("a row with a field that is not a number"):
        values = np.fromiter((float(field) for field in fields), np.float64, len(fields))
    labels: tuple[int, ...] = ()
    if len(values) == MIT_BIH_SAMPLES + 1:
        labels, values = _labels(values[-1]), values[:-1]
    return Scan(stored(values)[None], (1.0,), None, "ECG", labels=labels)


def _labels(value: float) -> tuple[int, ...]:
    if not (np.isfinite(value) and value == int(value)):
        raise ScanError("a label that is not a whole number")
    return (int(value),)
