"""What the columns of a CSV file with signals are: samples, a label, or neither (row numbers, identifiers). Pure.

The run file says it (``data.csv``), or the first rows and the number of samples that ``data.shape`` declares leave one
reading. A file that allows more is refused: an identifier must never become a sample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medfuncta_dist.config.sections.data_section import Csv
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.signals.csv_cells import Dialect

MIT_BIH_SAMPLES = 187
WHOLE = re.compile(r"[+-]?\d+")
LARGEST_LABEL = 999
"""Of a label that nobody has announced: larger whole numbers may be identifiers."""
LEAST_SAMPLES = 8
"""Fewer do not show how much a signal changes from one sample to the next."""
JUMP = 3
"""How many times the largest step of a signal the first one must be, to look like one between an identifier and it."""
LEAST_IDENTIFIER = 100
NAMES = frozenset(
    (
        *("", "case", "caseid", "file", "filename", "id", "idx", "index", "key", "mrn", "name", "nr", "no", "number"),
        *("patient", "patientid", "pid", "record", "recordid", "row", "rowid", "subject", "subjectid", "uid", "ecgid"),
        *("unnamed0", "time", "timestamp", "date"),
    )
)
"""Headers of columns that are no samples; letters and digits only. pandas writes its row numbers under an empty one."""
LABELS = frozenset(("class", "label", "target", "y", "diagnosis"))
KEY = "data.csv says what each column is (skip: [0] leaves the first out, skip: [] makes every column a sample)"

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Columns:
    """``fields``: cells of a row. ``samples``: which of them are samples."""

    fields: int
    samples: tuple[int, ...]
    label: int | None = None


def is_header(rows: Rows, dialect: Dialect) -> bool:
    """Whether the first row holds names: no numbers, or numbers that count the columns, as no other row does."""
    if not any(dialect.is_number(cell) for cell in rows[0]):
        return True
    others = [row for row in rows[1:] if len(row) == len(rows[0])]
    return bool(others) and _counts(rows[0], dialect) and not _counts(others[0], dialect)


def _counts(row: Sequence[str], dialect: Dialect) -> bool:
    """Whether a row, but for its ends, rises by the same step throughout: 0, 1, 2, ... or 0.000, 0.008, ..."""
    if len(row) < LEAST_SAMPLES or not all(dialect.is_number(cell) for cell in row[1:-1]):
        return False
    steps = np.diff([dialect.number(cell) for cell in row[1:-1]])
    return bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3))


def columns_of(
    rows: Rows, names: Sequence[str] | None, dialect: Dialect, csv: Csv | None, length: int | None
) -> Columns:
    """The columns of a file with these first rows, without header; ``names``: the header.

    ``length``: the samples that a row must have, None for any number. ScanError where the file allows several readings.
    """
    fields = _fields(rows)
    rows = [row for row in rows if len(row) >= fields]
    if csv is not None:
        return _declared(csv, fields)
    numeric = [i for i in range(fields) if any(dialect.is_number(row[i]) for row in rows)]
    if not numeric:
        raise ScanError("a CSV file without numbers")
    table = [[row[i] for i in numeric] for row in rows if all(dialect.is_number(row[i]) for i in numeric)]
    shown = [names[i] if names is not None and i < len(names) else None for i in numeric]
    first, last = _ends(_Table(table, shown, dialect), length)
    label = numeric[-1] if last else None
    return Columns(fields, tuple(numeric[first : len(numeric) - last]), label)


def _fields(rows: Rows) -> int:
    """Cells of a row, as the first one has them; empty ones at the end of every row do not count."""
    fields = len(rows[0])
    same = [row for row in rows if len(row) == fields]
    while fields > 1 and all(not row[fields - 1] for row in same):
        fields -= 1
    return fields


def _declared(csv: Csv, fields: int) -> Columns:
    named = [*csv.skip, *([] if csv.label is None else [csv.label])]
    if any(not -fields <= column < fields for column in named):
        raise ScanError(f"data.csv names a column that rows of {fields} do not have")
    apart = {column % fields for column in named}
    samples = tuple(column for column in range(fields) if column not in apart)
    if not samples:
        raise ScanError("data.csv leaves no column that is a sample")
    return Columns(fields, samples, None if csv.label is None else csv.label % fields)


@dataclass(frozen=True)
class _Table:
    """Rows of numbers only, as they are written."""

    rows: Rows
    names: Sequence[str | None]
    dialect: Dialect

    @property
    def reversed(self) -> _Table:
        return _Table([row[::-1] for row in self.rows], self.names[::-1], self.dialect)

    def whole(self, column: int) -> bool:
        return all(self.dialect.number(row[column]).is_integer() for row in self.rows)


def _ends(table: _Table, length: int | None) -> tuple[int, int]:
    """How many columns at the beginning and at the end are no samples: (0 or 1, 0 or 1)."""
    n, index = len(table.names), _looks_like_identifier(table)
    if n == MIT_BIH_SAMPLES + 1 and length in (None, MIT_BIH_SAMPLES) and not index:
        return 0, 1
    if length is None or n == length:
        _refuse_if(index, "a first column that looks like a row number or an identifier")
        apart = _looks_like_identifier(table.reversed) or _looks_like_classes(table)
        _refuse_if(apart, "a last column that looks like a label or an identifier")
        return 0, 0
    label = _is_label(table)
    if n == length + 1:
        _refuse_if(index == label, f"rows of {n} numbers, where data.shape declares {length}: one is no sample")
        return int(index), int(label)
    if n == length + 2 and index and label:
        return 1, 1
    raise ScanError(f"rows of {n} numbers, where data.shape declares {length} (data.length allows others)")


def _refuse_if(wrong: bool, what: str) -> None:
    if wrong:
        raise ScanError(f"{what}; {KEY}")


def _looks_like_identifier(table: _Table) -> bool:
    """Whether the first column does, beside the others."""
    name = table.names[0]
    if name is not None and _plain(name) in NAMES:
        return True
    first, rest = [row[0] for row in table.rows], [row[1:] for row in table.rows]
    if not first or not rest[0]:
        return False
    if all(WHOLE.fullmatch(cell) for cell in first) and _is_written_otherwise(list(map(int, first)), rest):
        return True
    return table.whole(0) and all(_is_far(row, table.dialect) for row in table.rows)


def _is_written_otherwise(values: list[int], rest: Rows) -> bool:
    """Whole numbers beside decimal ones, or rows that are counted."""
    decimal = [not WHOLE.fullmatch(cell) for row in rest for cell in row]
    steps = np.diff(np.array(values, dtype=object))
    if all(decimal):
        return len(values) == 1 or len(set(values)) > 1 or abs(values[0]) > 1
    if any(decimal):
        return len(set(values)) > 1 and (all(step >= 0 for step in steps) or len(set(values)) == len(values))
    return len(values) > 2 and all(step == 1 for step in steps)


def _is_far(row: Sequence[str], dialect: Dialect) -> bool:
    """Whether the first number of a row is further from the second than any neighbours in the rest are."""
    numbers = np.array([dialect.number(cell) for cell in row])
    if len(numbers) <= LEAST_SAMPLES or abs(numbers[0]) < LEAST_IDENTIFIER or not np.isfinite(numbers).all():
        return False
    steps = np.abs(np.diff(numbers))
    return bool(steps[0] > JUMP * steps[1:].max())


def _is_label(table: _Table) -> bool:
    """Whether the last column holds small whole numbers beside decimal ones."""
    if not table.rows or not table.whole(-1) or all(table.whole(i) for i in range(len(table.names) - 1)):
        return False
    return all(0 <= table.dialect.number(row[-1]) <= LARGEST_LABEL for row in table.rows)


def _looks_like_classes(table: _Table) -> bool:
    """The same of a column that is one too few to be one: it differs from its neighbour, too, or is called so."""
    name = table.names[-1]
    if name is not None and _plain(name) in LABELS:
        return True
    several = len({table.dialect.number(row[-1]) for row in table.rows}) > 1
    return several and _is_label(table) and len(table.names) > 1 and not table.whole(-2)


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
