"""The owner's table of sources (``data.group.table``): whose each one is, and its split and labels if it has them.

Its cells name files and patients: no error repeats one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medfuncta_dist.config.section import SPLIT
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.errors import ObjectMissingError, RunFileError
from medfuncta_dist.storage.object_store import ObjectStore

WHERE = "data.group.table"
LABEL = r"-?[0-9]{1,9}"
LARGEST_TABLE = 2**30
"""Bytes: ten million rows."""


@dataclass(frozen=True)
class TableRow:
    """What the table says about a source. ``split``, ``labels``: None where it has no such column."""

    group: str = field(repr=False)
    split: str | None = None
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SourceTable:
    """The table's rows by relative path."""

    rows: dict[str, TableRow] = field(repr=False)

    def of(self, relatives: Sequence[str]) -> list[TableRow]:
        """The row of each source; RunFileError where one has none."""
        if missing := sum(relative not in self.rows for relative in relatives):
            raise RunFileError(
                f"{missing} of {len(relatives)} sources have no row in the table",
                where=WHERE,
                do="add them, with their paths below the fixed part of data.source, or narrow data.source",
            )
        return [self.rows[relative] for relative in relatives]

    def unused(self, relatives: Sequence[str]) -> int:
        """Rows whose source is not in the archive."""
        return len(self.rows.keys() - set(relatives))


def load_table(data: Data) -> SourceTable | None:
    """The table that the run file names, or None. RunFileError where it cannot be read, or says two things at once."""
    rule = data.group
    if not isinstance(rule, Grouping) or rule.table is None:
        return None
    return SourceTable(_by_source(_rows(_read(rule.table), rule)))


def _read(uri: str) -> str:
    folder, _, name = uri.rpartition("/")
    store = ObjectStore(folder or ("/" if uri.startswith("/") else "."))
    try:
        return store.read(name, limit=LARGEST_TABLE).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refused("the table is not UTF-8 text") from None
    except ObjectMissingError:
        raise RunFileError("the table does not exist", where=f"{WHERE}: {uri}", do="check its path") from None


def _rows(text: str, rule: Grouping) -> Iterator[tuple[str, TableRow]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    wanted = [name for name in (rule.source, rule.group, rule.split, rule.label) if name is not None]
    try:
        if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
            raise _refused(f"the table has no column {' and no column '.join(map(repr, missing))}")
        for number, row in enumerate(reader, 1):
            yield _row({name: (row[name] or "").strip() for name in wanted}, rule, f"row {number} of the table")
    except csv.Error:
        raise _refused("the table is not a valid CSV file") from None


def _row(cells: Mapping[str, str], rule: Grouping, where: str) -> tuple[str, TableRow]:
    source, group, split = cells[rule.source], cells[rule.group], cells[rule.split] if rule.split else None
    if not source or not group:
        raise _refused(f"{where} has no source or no group")
    if split is not None and not re.fullmatch(SPLIT, split):
        raise _refused(f"{where} has no valid split (lowercase letters, digits, _)")
    labels = cells[rule.label].split() if rule.label else None
    if labels is not None and not all(re.fullmatch(LABEL, label) for label in labels):
        raise _refused(f"{where} has a label that is not a whole number of at most nine digits")
    return source, TableRow(group, split, None if labels is None else tuple(map(int, labels)))


def _by_source(rows: Iterator[tuple[str, TableRow]]) -> dict[str, TableRow]:
    found: dict[str, TableRow] = {}
    twice = sum(found.setdefault(source, row) != row for source, row in rows)
    if twice:
        raise _refused(f"{twice} rows of the table say something else about a source than a row before them")
    return found


def _refused(what: str) -> RunFileError:
    return RunFileError(what, where=WHERE, do="correct the table, or the names of its columns in data.group")
