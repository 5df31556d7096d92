"""The owner's table of sources (``data.group.table``): whose each one is, and its split where the table gives it.

Its cells name files and patients: no error repeats one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from medfuncta_dist.config.section import SPLIT
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.errors import ObjectMissingError, RunFileError
from medfuncta_dist.storage.object_store import ObjectStore

WHERE = "data.group.table"
LARGEST_TABLE = 2**30
"""Bytes: ten million rows."""


@dataclass(frozen=True)
class TableRow:
    """What the table says about a source. ``split``: None where it has no such column."""

    group: str = field(repr=False)
    split: str | None = None


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
    wanted = [rule.source, rule.group, *([rule.split] if rule.split else [])]
    try:
        if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
            raise _refused(f"the table has no column {' and no column '.join(map(repr, missing))}")
        for number, row in enumerate(reader, 1):
            source, group, *split = ((row[name] or "").strip() for name in wanted)
            if not source or not group:
                raise _refused(f"row {number} of the table has no source or no group")
            if split and not re.fullmatch(SPLIT, split[0]):
                raise _refused(f"row {number} of the table has no valid split (lowercase letters, digits, _)")
            yield source, TableRow(group, *split)
    except csv.Error:
        raise _refused("the table is not a valid CSV file") from None


def _by_source(rows: Iterator[tuple[str, TableRow]]) -> dict[str, TableRow]:
    found: dict[str, TableRow] = {}
    twice = sum(found.setdefault(source, row) != row for source, row in rows)
    if twice:
        raise _refused(f"{twice} rows of the table say something else about a source than a row before them")
    return found


def _refused(what: str) -> RunFileError:
    return RunFileError(what, where=WHERE, do="correct the table, or the names of its columns in data.group")
