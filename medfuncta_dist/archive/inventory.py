"""The private inventory: a Parquet file beside the salt, a row per source, sorted by relative path.

    inventory.parquet         the sources as the last pack stage found them
    survey.parquet            the same of the newest survey, until a pack stage adopts it
    survey-parts/<attempt>/   rows of a survey that has not ended
    survey.lock               held by the process that writes them

It holds paths and identifiers, and never leaves the owner's private folder. Paths are bytes: a file name need not be
valid UTF-8. A null is something that the source does not say, or that was not read.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.storage.archive_files.place import Place
from medfuncta_dist.storage.local_objects import replacing

INVENTORY, SURVEY, LOCK = "inventory.parquet", "survey.parquet", "survey.lock"
FORMAT_VERSION = b"2"
ROW_GROUP = 50_000
"""Rows per row group: 20 MB of DICOM rows, which is what reading or writing an inventory takes at once."""
BATCH = 4096
"""Rows that are Python objects at once."""
_DO = "delete it: the next survey reads the headers again"

NUMBERS = pa.list_(pa.float64())
SCHEMA = pa.schema(
    [
        ("relative", pa.binary()),
        ("identity", pa.binary()),
        ("uri", pa.binary()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("reader", pa.string()),
        ("probe", pa.string()),
        ("content", pa.string()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("series", pa.string()),
        ("instance", pa.string()),
        ("sop_class", pa.string()),
        ("transfer_syntax", pa.string()),
        ("modality", pa.string()),
        ("image_type", pa.list_(pa.string())),
        ("rows", pa.int64()),
        ("columns", pa.int64()),
        ("frames", pa.int64()),
        ("orientation", NUMBERS),
        ("position", NUMBERS),
        ("pixel_spacing", NUMBERS),
        ("slice_thickness", pa.float64()),
        ("slice_spacing", pa.float64()),
        ("instance_number", pa.int64()),
        ("acquisition", pa.string()),
        ("echo", pa.string()),
        ("temporal", pa.string()),
        ("phase", pa.string()),
        ("refers_to", pa.list_(pa.string())),
        ("problems", pa.list_(pa.string())),
    ],
    metadata={b"format_version": FORMAT_VERSION, b"kind": b"medfuncta inventory"},
)
NEW = "refers_to"
"""The column that version 1 did not have: null there, as for a file that is no segmentation."""
SCHEMAS = {b"1": pa.schema([column for column in SCHEMA if column.name != NEW]), FORMAT_VERSION: SCHEMA}
PATHS = ("relative", "identity", "uri")

Row = dict[str, Any]
"""A row by column; paths are text here, as file names are in Python."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A source as the archive's listing gives it. ``version`` as in ``storage.object_store.ObjectInfo``."""

    relative: str = field(repr=False)
    uri: str = field(repr=False)
    size: int
    version: str
    reader: str
    """Name of its reader; "" where none knows it."""
    place: Place | None = field(default=None, repr=False)
    refused: str = ""
    """As in ``Source``."""

    def describes(self, row: Row) -> bool:
        """Whether ``row`` was read from this state of the source. An archive may have moved: the URI may differ."""
        return bool(self.version) and (self.size, self.version, self.reader) == (
            row["size"],
            row["version"],
            row["reader"],
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time surveys into a private folder; another waits. The lock ends with its process."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as handle:
        with suppress(OSError):  # a file system without locks: then it is up to the user
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_part(path: Path, rows: Iterable[Row], salt: str) -> None:
    """Write some rows; the file appears whole or not at all. ``salt`` is the fingerprint of the salt of its keys."""
    with _writer(path, salt) as writer:
        writer.write_batch(_batch(list(rows)))


def write_inventory(path: Path, rows: Iterable[Row], salt: str) -> None:
    """Write all rows, in the order given; a row group at a time is in memory. The same rows give the same bytes."""
    iterator = iter(rows)
    with _writer(path, salt) as writer:
        while batches := _row_group(iterator):
            writer.write_table(pa.Table.from_batches(batches, SCHEMA), row_group_size=ROW_GROUP)


def join_parts(path: Path, parts: Iterable[Path], salt: str) -> None:
    """Write the rows of the parts, in their order, as ``write_inventory`` does: with the same bytes, in a tenth of the
    time, because no row becomes a Python object."""
    kept = pa.Table.from_batches([], SCHEMA)
    with _writer(path, salt) as writer:
        for part in parts:
            kept = pa.concat_tables([kept, pq.read_table(part, use_threads=False).cast(SCHEMA)])
            while kept.num_rows >= ROW_GROUP:
                _write_group(writer, kept.slice(0, ROW_GROUP))
                kept = kept.slice(ROW_GROUP)
        if kept.num_rows:
            _write_group(writer, kept)


def _write_group(writer: pq.ParquetWriter, rows: pa.Table) -> None:
    whole = rows.combine_chunks()
    batches = [batch for start in range(0, len(whole), BATCH) for batch in whole.slice(start, BATCH).to_batches()]
    writer.write_table(pa.Table.from_batches(batches, SCHEMA), row_group_size=ROW_GROUP)


def _row_group(rows: Iterator[Row]) -> list[pa.RecordBatch]:
    batches, left = [], ROW_GROUP
    while left and (some := list(islice(rows, min(BATCH, left)))):
        batches.append(_batch(some))
        left -= len(some)
    return batches


def read_inventory(path: Path, salt: str, columns: list[str] | None = None) -> Iterator[Row]:
    """The rows of a file, a batch of them in memory at once; none where there is no file, or one of another salt.

    Raises FormatVersionError and IntegrityError, which say to delete it.
    """
    if not path.exists():
        return
    try:
        with pq.ParquetFile(path) as file:
            _check(file.schema_arrow, path)
            if file.schema_arrow.metadata.get(b"salt") != salt.encode():
                return
            there = file.schema_arrow.names
            wanted = [name for name in columns or there if name in there]
            lacking: Row = {} if NEW in there or NEW not in (columns or SCHEMA.names) else {NEW: None}
            for batch in file.iter_batches(BATCH, columns=wanted, use_threads=False):
                yield from (_with_text(row) | lacking for row in batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError("the inventory is damaged", where=str(path), do=_DO) from error


def _check(schema: pa.Schema, path: Path) -> None:
    version = (schema.metadata or {}).get(b"format_version")
    if version not in SCHEMAS:
        what = f"inventory format_version {version!r} is unknown; this version reads {[*SCHEMAS]}"
        raise FormatVersionError(what, where=str(path), do=_DO)
    if not schema.equals(SCHEMAS[version]):
        raise IntegrityError("the inventory has other columns than expected", where=str(path), do=_DO)


@contextmanager
def _writer(path: Path, salt: str) -> Iterator[pq.ParquetWriter]:
    """Only the owner can read what it writes."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        schema = SCHEMA.with_metadata({**SCHEMA.metadata, b"salt": salt.encode()})
        with pq.ParquetWriter(part, schema, compression="zstd", version="2.6") as writer:
            yield writer


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns = [pa.array(list(_values(rows, name)), SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _values(rows: list[Row], name: str) -> Iterator[Any]:
    if name in PATHS:
        return (row[name].encode("utf-8", "surrogateescape") for row in rows)
    return (row[name] for row in rows)


def _with_text(row: Row) -> Row:
    return row | {name: row[name].decode("utf-8", "surrogateescape") for name in PATHS if name in row}
