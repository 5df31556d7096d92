"""Parquet from storage, not trusted: what its footer declares is checked against limits before the file is read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.archive_files.range_file import RangeFile
from medfuncta_dist.storage.parsing.strict_json import RESTORE
from medfuncta_dist.storage.source_ranges import Fetch

LARGEST_FOOTER = 2**24
"""Bytes. A column of a row group takes about a hundred."""
MAX_COLUMNS = 64
TAIL = 2**16
"""Bytes of the end of a file that is read in ranges: more than the footer of most files."""
SLACK = 2**20
"""Bytes that a file may hold beside its rows: page headers, dictionaries."""


def open_parquet(data: bytes, where: str, *, row_bytes: int, rows: int | None = None) -> pq.ParquetFile:
    """Open a file by its footer. IntegrityError if it is not Parquet, has another number of rows than ``rows``, or
    declares more than ``row_bytes`` per row, decompressed."""
    _check_length(data[-8:-4], where)
    return _opened(pa.BufferReader(data), len(data), where, row_bytes, rows)


def open_ranged(fetch: Fetch, size: int, where: str, *, row_bytes: int, rows: int | None = None) -> pq.ParquetFile:
    """The same of an object of ``size`` bytes: its end is read now, of the rest only what is asked for later. No digest
    proves what is read."""
    start = max(0, size - TAIL)
    tail = fetch(start, size - start)
    _check_length(tail[-8:-4], where)

    def cached(begin: int, length: int) -> bytes:
        return tail[begin - start :][:length] if begin >= start else fetch(begin, length)

    return _opened(pa.PythonFile(RangeFile(cached, size, first=1), mode="r"), size, where, row_bytes, rows)


def open_footer(footer: bytes, size: int, where: str, *, row_bytes: int) -> pq.FileMetaData:
    """The footer of a file of ``size`` bytes alone, with the eight bytes that follow it, under the same limits."""
    _check_length(footer[-8:-4], where)
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError("not a Parquet file", where=where, do=RESTORE) from error
    _check_footer(metadata, size, where, row_bytes, None)
    return metadata


def _check_length(footer_length: bytes, where: str) -> None:
    if int.from_bytes(footer_length, "little") > LARGEST_FOOTER:
        what = f"not a Parquet file, or one with a footer of more than {LARGEST_FOOTER} bytes"
        raise IntegrityError(what, where=where, do=RESTORE)


def _opened(source: Any, size: int, where: str, row_bytes: int, rows: int | None) -> pq.ParquetFile:
    ranged = isinstance(source, pa.PythonFile)
    try:
        file = pq.ParquetFile(source, pre_buffer=ranged)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError("not a Parquet file", where=where, do=RESTORE) from error
    _check_footer(file.metadata, size, where, row_bytes, rows)
    return file


def read(file: pq.ParquetFile, where: str, columns: list[str] | None = None) -> pa.Table:
    """All rows of these columns. IntegrityError if the bytes do not match the footer."""
    try:
        table = file.read(columns=columns, use_threads=False)
        table.validate(full=True)
    except (
        pa.ArrowException,
        OSError,
        ValueError,
    ) as error:  # running out of memory for its pages is an ArrowException, too
        raise IntegrityError("the Parquet file is damaged", where=where, do=RESTORE) from error
    return table


def _check_footer(metadata: pq.FileMetaData, size: int, where: str, row_bytes: int, rows: int | None) -> None:
    # Not column by column: a C++ exception over a column's damaged statistics would end the process.
    decompressed = sum(max(0, metadata.row_group(i).total_byte_size) for i in range(metadata.num_row_groups))
    if rows is not None and metadata.num_rows != rows:
        what = f"a Parquet file of {metadata.num_rows} rows, expected {rows}"
    elif metadata.num_columns > MAX_COLUMNS:
        what = f"a Parquet file of {metadata.num_columns} columns"
    elif decompressed > metadata.num_rows * row_bytes + SLACK:
        what = (
            f"a Parquet file of {size} bytes that decompresses to {decompressed}, too many for {metadata.num_rows} rows"
        )
    else:
        return
    raise IntegrityError(what, where=where, do=RESTORE)
