"""One-dimensional signals in CSV, a row per scan.

Separator, decimal sign, header and the columns that are no samples are told apart by the first rows
(``csv_cells``, ``csv_columns``), or declared in the run file. Rows are counted from 0, header and empty lines left out.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from medfuncta_dist.config.sections.data_section import Csv, Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found, refusing
from medfuncta_dist.scans.readers.signals.csv_cells import Dialect, dialect_of
from medfuncta_dist.scans.readers.signals.csv_columns import Columns, columns_of, is_header
from medfuncta_dist.scans.readers.signals.signal_length import declared_length, of_length
from medfuncta_dist.scans.scan import Scan, stored

MAX_LINE = 2**24
"""Characters: more than half a million samples per row."""
FIRST_ROWS = 32
FIRST_CHARACTERS = 2**24
"""Rows, and characters in them, that tell what the columns are."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Spreadsheets write it as "Unicode text"."""


class EcgCsvReader:
    """Scans ``row/0``, ``row/1``, ... with one channel; a damaged row is refused alone."""

    name = "ecg-csv"
    suffixes: tuple[str, ...] = (".csv",)

    def __init__(self, data: Data | None = None) -> None:
        """Without ``data``, signals may have any length."""
        self.data = data

    def for_data(self, data: Data) -> EcgCsvReader:
        """The reader that follows a run file."""
        return EcgCsvReader(data)

    def scans(self, path: Path) -> Iterator[Found]:
        """All rows. ScanError where the columns allow more than one reading."""
        with refusing("not a readable CSV file"):
            file = path.open(encoding=_encoding(path), errors="replace", newline=None)
        with file:
            first = _first_lines(file)
            if not first:
                raise ScanError("a CSV file without rows")
            dialect, columns, header = _understood(first, self.data)
            for number, line in enumerate(chain(first[header:], _lines(file))):
                found = Found(f"row/{number}", None, _scan_or_error(dialect.cells(line), dialect, columns))
                yield from of_length(found, self.data)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in UTF_16 else "utf-8-sig"


def _understood(first: Sequence[str], data: Data | None) -> tuple[Dialect, Columns, int]:
    """How cells are written, what the columns are, and how many lines are a header: 0 or 1."""
    declared = None if data is None else data.csv
    known = declared or Csv()
    dialect = dialect_of(first, known.separator, known.decimal)
    rows = [dialect.cells(line) for line in first]
    header = is_header(rows, dialect) if known.header is None else known.header
    if len(rows) == header:
        raise ScanError("a CSV file without rows")
    names = rows[0] if header else None
    return dialect, columns_of(rows[header:], names, dialect, declared, declared_length(data)), int(header)


def _first_lines(file: IO[str]) -> list[str]:
    lines: list[str] = []
    characters = 0
    while len(lines) < FIRST_ROWS and characters < FIRST_CHARACTERS and (line := next(_lines(file), None)):
        lines.append(line)
        characters += len(line)
    return lines


def _lines(file: IO[str]) -> Iterator[str]:
    """Lines that are not empty."""
    while line := _line(file):
        if line.strip():
            yield line.rstrip("\n")


def _line(file: IO[str]) -> str:
    with refusing("the CSV file is damaged"):
        line = file.readline(MAX_LINE)
    if len(line) == MAX_LINE:
        raise ScanError("a line of the CSV file is too long")
    return line


def _scan_or_error(cells: list[str], dialect: Dialect, columns: Columns) -> Scan | ScanError:
    try:
        return _scan(cells, dialect, columns)
    except ScanError as error:
        return error


def _scan(cells: list[str], dialect: Dialect, columns: Columns) -> Scan:
    while len(cells) > columns.fields and not cells[-1]:
        cells = cells[:-1]
    if len(cells) != columns.fields:
        raise ScanError(f"a row of {len(cells)} fields in a file of {columns.fields}")
    with refusing("a row with a field that is not a number"):
        values = np.array(dialect.numbers([cells[i] for i in columns.samples]))
    labels = () if columns.label is None else _labels(cells[columns.label], dialect)
    return Scan(stored(values)[None], (1.0,), None, "ECG", labels=labels)


def _labels(cell: str, dialect: Dialect) -> tuple[int, ...]:
    value = dialect.number(cell) if dialect.is_number(cell) else np.nan
    if not np.isfinite(value) or value != int(value):
        raise ScanError("a label that is not a whole number")
    return (int(value),)
