"""Parquet files whose row groups can be read one by one, each proved: for rows of which few are wanted at a time.

A file's footer has the CRC-32C of each row group's bytes (metadata ``groups``, eight hex digits each); whoever names
the file keeps the footer's length and SHA-256. So a few rows cost the footer once, and the row groups that hold them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.errors import IntegrityError, LostObjectError, ObjectMissingError, RunFileError
from medfuncta_dist.latents.table_format import FIT_AGAIN, LARGEST_ROW, PartRef
from medfuncta_dist.storage.archive_files.range_file import RangeFile
from medfuncta_dist.storage.digest import crc32c, sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet

GROUPS = b"groups"
ENDING = 8
"""Bytes after a Parquet footer: its length, and "PAR1"."""
MAGIC = 4
"""Bytes before the first row group: "PAR1"."""
DIGITS = 8
"""Hex digits of a CRC-32C."""


@dataclass(frozen=True)
class GroupedRef(PartRef):
    """Where such a file is, and what its bytes and its footer must be."""

    footer: int
    """Bytes of the footer, with the eight that follow it, and in the next field their SHA-256."""
    footer_sha256: str


def grouped_bytes(table: pa.Table, rows: int) -> bytes:
    """The table as such a file, in groups of so many rows; the same table always gives the same bytes."""
    buffer, sums = io.BytesIO(), list[str]()
    # Statistics of noise are of no use, and a footer of many groups is long enough without them.
    options: dict[str, Any] = {"use_dictionary": False, "compression": "ZSTD", "write_statistics": False}
    with pq.ParquetWriter(buffer, table.schema, **options) as writer:
        for start in range(0, table.num_rows, rows):
            begun = max(MAGIC, buffer.tell())
            writer.write_table(table.slice(start, rows).combine_chunks(), row_group_size=rows)
            sums.append(f"{crc32c(buffer.getbuffer()[begun:]):0{DIGITS}x}")
        writer.add_key_value_metadata({GROUPS: "".join(sums).encode()})
    return buffer.getvalue()


def write_grouped(store: ObjectStore, folder: str, table: pa.Table, rows: int) -> GroupedRef:
    """Put such a file under its content address ``parts/<sha256>.parquet`` in ``folder``. RunFileError, and nothing
    is written, where its footer would be longer than any that is read."""
    data = grouped_bytes(table, rows)
    if (footer_bytes := int.from_bytes(data[-ENDING:-4], "little")) > parquet.LARGEST_FOOTER:
        what = f"a part of {table.num_rows} rows has a footer of {footer_bytes} bytes, too many to be read again"
        raise RunFileError(what, where="fit.scans_per_task", do="lower it")
    digest = sha256_bytes(data)
    path = f"parts/{digest}.parquet"
    store.write(f"{folder}/{path}", data)
    footer = data[-ENDING - footer_bytes :]
    return GroupedRef(path, digest, len(data), len(footer), sha256_bytes(footer))


class GroupedFile:
    """Such a file in storage, opened by its footer."""

    def __init__(self, store: ObjectStore, folder: str, ref: GroupedRef) -> None:
        """IntegrityError where its footer is not the one that was committed, LostObjectError where it is gone."""
        self._store, self._path, self._ref = store, f"{folder}/{ref.path}", ref
        self.where = store.uri(self._path)
        footer = self._fetch(ref.size - ref.footer, ref.footer)
        if sha256_bytes(footer) != ref.footer_sha256:
            raise self._damaged()
        self._metadata = parquet.open_footer(footer, ref.size, self.where, row_bytes=LARGEST_ROW)
        self._groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
        self._spans = list(map(_span, self._groups))
        self._firsts = [0, *accumulate(group.num_rows for group in self._groups)]
        self._sums = (self._metadata.metadata or {}).get(GROUPS, b"").decode()
        if len(self._sums) != DIGITS * len(self._groups):
            raise self._damaged()

    @property
    def schema(self) -> pa.Schema:
        """With its metadata."""
        return self._metadata.schema.to_arrow_schema()

    @property
    def rows(self) -> int:
        """Of the whole file."""
        return int(self._firsts[-1])

    def take(self, rows: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """These rows, in the order given, from the row groups that hold them: neighbouring ones in one request.
        IntegrityError for a row group that is not the one that was committed. IndexError for a row that there is not.
        """
        asked = np.asarray(rows, np.int64)
        if len(asked) and (asked.min() < 0 or asked.max() >= self.rows):
            raise IndexError(f"rows {asked.min()} to {asked.max()} of {self.rows}")
        numbers = np.searchsorted(self._firsts, asked, side="right") - 1
        wanted = np.unique(numbers).tolist()
        tables = [self._read(run, columns) for run in _runs(wanted)]
        if not tables:
            return self.schema.empty_table().select(list(columns or self.schema.names))
        sizes = [self._groups[number].num_rows for number in wanted]
        firsts = np.asarray(self._firsts)[wanted]
        shifts = np.cumsum([0, *sizes])[:-1] - firsts  # from a row of the file to one of what was read
        places = asked + shifts[np.searchsorted(wanted, numbers)]
        return pa.concat_tables(tables).take(pa.array(places)).combine_chunks()

    def _read(self, run: range, columns: Sequence[str] | None) -> pa.Table:
        """The rows of neighbouring groups."""
        first, last = self._spans[run.start][0], self._spans[run.stop - 1][1]
        data = self._fetch(first, last - first)
        for number in run:
            start, stop = self._spans[number]
            if f"{crc32c(data[start - first : stop - first]):0{DIGITS}x}" != self._sums[DIGITS * number :][:DIGITS]:
                raise self._damaged()
        source = pa.PythonFile(RangeFile(lambda at, n: data[at - first :][:n], self._ref.size, first=1), mode="r")
        try:
            file = pq.ParquetFile(source, metadata=self._metadata)
            table = file.read_row_groups(list(run), None if columns is None else list(columns), use_threads=False)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged() from error
        return table.replace_schema_metadata(self.schema.metadata)

    def _fetch(self, start: int, length: int) -> bytes:
        try:
            return self._store.read_range(self._path, start, length)
        except ObjectMissingError as error:
            what = "a part of the latent table is missing: a record names it"
            raise LostObjectError(what, where=self.where, do=FIT_AGAIN) from error

    def _damaged(self) -> IntegrityError:
        what = "a part of the latent table is not the one that was committed"
        return IntegrityError(what, where=self.where, do=FIT_AGAIN)


def _span(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Where a row group's bytes begin and end: its columns lie one after the other."""
    columns = [group.column(number) for number in range(group.num_columns)]
    start = min(c.dictionary_page_offset or c.data_page_offset for c in columns)
    return start, start + sum(c.total_compressed_size for c in columns)


def _runs(numbers: Iterable[int]) -> Iterator[range]:
    """Ascending numbers as runs of neighbours."""
    run = range(0)
    for number in numbers:
        if run and number == run.stop:
            run = range(run.start, number + 1)
            continue
        if run:
            yield run
        run = range(number, number + 1)
    if run:
        yield run
