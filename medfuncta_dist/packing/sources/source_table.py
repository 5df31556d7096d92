"""The owner's table (``data.table``, ``data.group.table``): patients, splits and labels by what its rows are about.

Its cells name files and patients: no error repeats one.
"""

from __future__ import annotations

import csv
import io
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.config.section import SPLIT
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.config.sections.table_section import By, Label, Table
from medfuncta_dist.errors import ObjectMissingError, RunFileError
from medfuncta_dist.scans.label_check import risk_of_columns, risk_of_texts
from medfuncta_dist.storage.object_store import ObjectStore

LABEL = r"(-?[0-9]{1,9})(?:\.0*)?"
LARGEST_TABLE = 2**30
"""Bytes: ten million rows."""
PARQUET = b"PAR1"
DELIMITERS = (",", ";", "\t")
MISSING = frozenset(("n/a", "N/A", "NA"))
"""No label, unless it is one of the categories: BIDS writes n/a, R NA."""

Columns = Mapping[str, Sequence[str]]
"""The table's texts by column, without spaces around them."""


@dataclass(frozen=True)
class TableRow:
    """What a row says. None where the table has no such column."""

    group: str | None = field(repr=False)
    split: str | None = None
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SourceTable:
    """The table's rows by what they are about, as written in the table; of patients, ``ID`` or ``ID\\issuer``."""

    rows: dict[str, TableRow] = field(repr=False)
    rule: Table
    where: str = "data.table"
    """The run file's key, for errors."""

    @property
    def by(self) -> By:
        """What a row is about."""
        return self.rule.by

    def require_all(self, missing: int, of: int, unused: int) -> None:
        """RunFileError where sources have no row."""
        if missing:
            raise RunFileError(
                f"{missing} of {of} sources have no row in the table, and {unused} rows of it name no source",
                where=self.where,
                do=DO[self.by if self.by in DO else "series"],
            )


DO = {
    "path": "add them, with their paths below the fixed part of data.source, or narrow data.source",
    "key": "add the keys that the private mapping has, or set data.table.without_row to keep",
    "series": "add them, or narrow data.source; a table of labels alone may set data.table.without_row to keep",
}


def rule_of(data: Data) -> tuple[Table, str] | None:
    """The table that the run file names and the key at which it does; None where it names none."""
    if data.table is not None:
        return data.table, "data.table"
    rule = data.group
    if not isinstance(rule, Grouping) or rule.table is None:
        return None
    table = Table(path=rule.table, column=rule.source, group=rule.group, split=rule.split, label=rule.label)
    return table, "data.group.table"


def load_table(data: Data) -> SourceTable | None:
    """The table that the run file names, or None. RunFileError where it cannot be read, or says two things at once, or
    where labels look like identifiers."""
    if (found := rule_of(data)) is None:
        return None
    return _Loader(*found, data.identifying_labels != "keep").load()


@dataclass(frozen=True)
class _Loader:
    rule: Table
    where: str
    checked: bool

    def load(self) -> SourceTable:
        rule = self.rule
        columns = self._columns()
        about = self._about(columns)
        labels = self._labels(columns, len(about))
        rows = (
            TableRow(
                columns[rule.group][at] if rule.group else None,
                columns[rule.split][at] if rule.split else None,
                labels[at] if labels is not None else None,
            )
            for at in range(len(about))
        )
        self._check(about, columns)
        return SourceTable(self._distinct(about, rows), rule, self.where)

    def _columns(self) -> Columns:
        rule = self.rule
        named = [rule.column or rule.by, rule.issuer, rule.group, rule.split, *(label.column for label in rule.labels)]
        wanted = list(dict.fromkeys(name for name in named if name is not None))
        data = self._read()
        columns = self._parquet(data, wanted) if data[:4] == PARQUET else self._csv(data, wanted)
        if missing := [name for name in wanted if name not in columns]:
            raise self._refused(f"the table has no column {' and no column '.join(map(repr, missing))}")
        return columns

    def _read(self) -> bytes:
        folder, _, name = self.rule.path.rpartition("/")
        store = ObjectStore(folder or ("/" if self.rule.path.startswith("/") else "."))
        try:
            return store.read(name, limit=LARGEST_TABLE)
        except ObjectMissingError:
            where = f"{self.where}: {self.rule.path}"
            raise RunFileError("the table does not exist", where=where, do="check its path") from None

    def _csv(self, data: bytes, wanted: Sequence[str]) -> Columns:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise self._refused("the table is not UTF-8 text") from None
        try:
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text, wanted))
            columns: dict[str, list[str]] = {name: [] for name in wanted if name in (reader.fieldnames or ())}
            for row in reader:
                for name, cells in columns.items():
                    cells.append((row[name] or "").strip())
        except csv.Error:
            raise self._refused("the table is not a valid CSV file") from None
        return columns

    def _parquet(self, data: bytes, wanted: Sequence[str]) -> Columns:
        try:
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                names = [name for name in wanted if name in file.schema_arrow.names]
                table = file.read(columns=names, use_threads=False)
            return {name: [_text(cell) for cell in table[name].to_pylist()] for name in names}
        except (pa.ArrowException, OSError, ValueError):
            raise self._refused("the table is not a valid Parquet file") from None

    def _about(self, columns: Columns) -> list[str]:
        about = list(columns[self.rule.column or self.rule.by])
        if self.rule.issuer is None:
            return about
        return [f"{a}\\{issuer}" if a else "" for a, issuer in zip(about, columns[self.rule.issuer], strict=True)]

    def _check(self, about: Sequence[str], columns: Columns) -> None:
        groups = columns[self.rule.group] if self.rule.group else about
        splits = columns[self.rule.split] if self.rule.split else None
        named = "source" if self.rule.by == "path" else self.rule.by
        for number, (one, group) in enumerate(zip(about, groups, strict=True), 1):
            if not one or not group:
                raise self._refused(f"row {number} of the table has no {named} or no group")
            if splits is not None and not re.fullmatch(SPLIT, splits[number - 1]):
                raise self._refused(f"row {number} of the table has no valid split (lowercase letters, digits, _)")

    def _labels(self, columns: Columns, rows: int) -> list[tuple[int, ...]] | None:
        """Of each row; empty where all its cells are."""
        if not self.rule.labels:
            return None
        parts = [self._column(label, columns[label.column]) for label in self.rule.labels]
        found = []
        for number, cells in enumerate(zip(*parts, strict=True), 1):
            if any(cells) and not all(cells):
                raise self._refused(f"row {number} of the table has some of its labels: give the others a class, as -1")
            found.append(tuple(value for cell in cells for value in cell))
        return found

    def _column(self, label: Label, cells: Sequence[str]) -> list[tuple[int, ...]]:
        if label.categories is not None:
            return self._parsed(label, cells, _category(label.categories), "none of its categories")
        if label.bins is not None:
            return self._parsed(label, cells, _bin(label.bins), "not a number")
        found = self._parsed(label, cells, _numbers, "not a whole number of at most nine digits")
        widths = [len(values) for values in found if values]
        parts = ([values for values in found if len(values) == width] for width in set(widths))
        risks = (risk_of_columns(np.array(part, np.int64)) for part in parts)
        if self.checked and (risk := next(filter(None, risks), None)):
            raise self._refused_label(label, risk)
        return found

    def _parsed(
        self, label: Label, cells: Sequence[str], parse: Callable[[str], tuple[int, ...] | None], what: str
    ) -> list[tuple[int, ...]]:
        """The labels of each cell. A text that is no such label is refused; what the column looks like is said."""
        found = []
        cells = ["" if cell in MISSING and cell not in (label.categories or ()) else cell for cell in cells]
        for number, cell in enumerate(cells, 1):
            if (values := parse(cell)) is None:
                texts = [text for text in cells if text]
                risk = risk_of_texts(texts)
                about = f"row {number} of the table has a label that is {what}"
                raise self._refused_label(
                    label, f"{about}; its column holds {len(set(texts))} different texts{f': {risk}' if risk else ''}"
                )
            found.append(values)
        return found

    def _refused_label(self, label: Label, what: str) -> RunFileError:
        return RunFileError(
            what,
            where=f"{self.where}, label column '{label.column}'",
            do="give whole numbers; for texts list categories, for measurements bins; identifying_labels: keep where "
            "numbers that look like identifiers are classes",
        )

    def _distinct(self, about: Iterable[str], rows: Iterator[TableRow]) -> dict[str, TableRow]:
        found: dict[str, TableRow] = {}
        twice = sum(found.setdefault(one, row) != row for one, row in zip(about, rows, strict=True))
        if twice:
            named = "source" if self.rule.by == "path" else self.rule.by
            raise self._refused(f"{twice} rows of the table say something else about a {named} than a row before them")
        return found

    def _refused(self, what: str) -> RunFileError:
        return RunFileError(what, where=self.where, do="correct the table, or the names of its columns in the run file")


def _delimiter(text: str, wanted: Sequence[str]) -> str:
    """The one that gives the wanted columns; a comma where none does."""
    head = text.partition("\n")[0]
    for delimiter in DELIMITERS:
        names = next(csv.reader([head.rstrip("\r")], delimiter=delimiter), [])
        if all(name in names for name in wanted):
            return delimiter
    return DELIMITERS[0]


def _text(cell: Any) -> str:
    """A cell of a Parquet file as it would be in a CSV file; numbers of a column with gaps are floats there."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _numbers(cell: str) -> tuple[int, ...] | None:
    found = [re.fullmatch(LABEL, part) for part in cell.split()]
    return tuple(int(match.group(1)) for match in found if match) if all(found) else None


def _category(categories: Sequence[str]) -> Callable[[str], tuple[int, ...] | None]:
    places = {text: (place,) for place, text in enumerate(categories)}
    return lambda cell: places.get(cell, None if cell else ())


def _bin(limits: Sequence[float]) -> Callable[[str], tuple[int, ...] | None]:
    def parse(cell: str) -> tuple[int, ...] | None:
        try:
            number = float(cell) if cell else 0.0
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        return (bisect_right(limits, number),) if cell else ()

    return parse
