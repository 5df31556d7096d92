"""The index of a shard: a Parquet file beside the tar, one row per sample, in the tar's order.

| column        | type   |                                                                 |
|---------------|--------|-----------------------------------------------------------------|
| key           | string | the sample's key, 64 lowercase hex digits                       |
| source, item  | string | key of the source it came from, and its ordinal place in there  |
| npy_offset    | int64  | bytes from the start of the tar to the npy member's data        |
| npy_length    | int64  | bytes                                                           |
| npy_crc32c    | uint32 | CRC-32C of those bytes                                          |
| json_offset, json_length, json_crc32c |  | the same for the json member                    |
| group, group_by | string | from version 2: key of the patient, and how it was found (``Group``)     |
| shape         | list of int32  | in version 3: the array's shape, channel first                  |
| brick_bytes   | int32          | in version 3: bytes of a brick, a piece of the npy member       |
| brick_crc32c  | list of uint32 | in version 3: CRC-32C of each brick; the last may be shorter    |

It makes each sample two ranges of the tar that can be verified alone; ``format_version`` is in the schema's metadata:
1 in a data set that is split by source, as all were in earlier versions, which refuse 2 by name; 3 where scans keep
their own shape (``data.patches``): a part of such a scan can be read, and verified by the bricks that it touches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.scans.scan import MAX_VALUES
from medfuncta_dist.storage.digest import crc32c
from medfuncta_dist.storage.parsing import parquet
from medfuncta_dist.storage.parsing.strict_json import RESTORE

FORMAT_VERSION, GROUPED_VERSION, BRICK_VERSION = b"1", b"2", b"3"
TAR_BLOCK = 512
BRICK_BYTES = 2**20
"""Of an npy member: few enough checksums for the index of a large scan, and few enough bytes to verify for a patch."""
LARGEST_ROW = 2**14
"""Bytes of a row, decompressed; it has about 200, and 8 KiB of checksums in the largest scan."""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("item", pa.string()),
        ("npy_offset", pa.int64()),
        ("npy_length", pa.int64()),
        ("npy_crc32c", pa.uint32()),
        ("json_offset", pa.int64()),
        ("json_length", pa.int64()),
        ("json_crc32c", pa.uint32()),
    ],
    metadata={b"format_version": FORMAT_VERSION, b"kind": b"medfuncta shard index"},
)


GROUPED_SCHEMA = pa.schema(
    [*SCHEMA, ("group", pa.string()), ("group_by", pa.string())],
    metadata={b"format_version": GROUPED_VERSION, b"kind": b"medfuncta shard index"},
)
BRICK_SCHEMA = pa.schema(
    [
        *GROUPED_SCHEMA,
        ("shape", pa.list_(pa.int32())),
        ("brick_bytes", pa.int32()),
        ("brick_crc32c", pa.list_(pa.uint32())),
    ],
    metadata={b"format_version": BRICK_VERSION, b"kind": b"medfuncta shard index"},
)
SCHEMAS = {FORMAT_VERSION: SCHEMA, GROUPED_VERSION: GROUPED_SCHEMA, BRICK_VERSION: BRICK_SCHEMA}


@dataclass(frozen=True)
class IndexRow:
    """Where one sample is in its shard. Fields in the order of ``BRICK_SCHEMA``; earlier versions leave out the last
    ones."""

    key: str
    source: str
    item: str
    npy_offset: int
    npy_length: int
    npy_crc32c: int
    json_offset: int
    json_length: int
    json_crc32c: int
    group: str = ""
    group_by: str = ""
    shape: tuple[int, ...] = ()
    brick_bytes: int = 0
    brick_crc32c: tuple[int, ...] = ()


def brick_checksums(npy: bytes, brick_bytes: int) -> list[int]:
    """CRC-32C of each brick of an npy member."""
    data = memoryview(npy)
    return [crc32c(data[start : start + brick_bytes]) for start in range(0, len(data), brick_bytes)]


def index_table(rows: Sequence[IndexRow], grouped: bool = False, bricks: bool = False) -> pa.Table:
    """The rows as a table of ``SCHEMA``, of ``GROUPED_SCHEMA``, or, with ``bricks``, of ``BRICK_SCHEMA``."""
    schema = BRICK_SCHEMA if bricks else GROUPED_SCHEMA if grouped else SCHEMA
    cells = [astuple(row) for row in rows]
    return pa.table([pa.array([c[i] for c in cells], f.type) for i, f in enumerate(schema)], schema=schema)


def index_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file; the same bytes for the same table (and version of pyarrow)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", version="2.6")
    return bytes(sink.getvalue().to_pybytes())


def parse_index(data: bytes, *, shard_size: int, samples: int, where: str) -> pa.Table:
    """Parse an index and check that it can belong to a shard of ``shard_size`` bytes with ``samples`` samples.

    Raises ``FormatVersionError`` for an unknown version, ``IntegrityError`` for anything else that does not match.
    """
    file = parquet.open_parquet(data, where, row_bytes=LARGEST_ROW, rows=samples)
    _check_schema(file.schema_arrow, where)
    table = parquet.read(file, where)
    if any(column.null_count for column in table.columns):
        raise IntegrityError("the index has missing values", where=where, do=RESTORE)
    if not _keys_unique(table):
        raise IntegrityError("two samples of the index have the same key", where=where, do=RESTORE)
    if not _ranges_fit(table, shard_size):
        what = "the index points outside its shard, or at overlapping members"
        raise IntegrityError(what, where=where, do=RESTORE)
    if "shape" in table.column_names and not _bricks_fit(table):
        raise IntegrityError("the index has shapes or bricks that do not fit its scans", where=where, do=RESTORE)
    return table


def _check_schema(schema: pa.Schema, where: str) -> None:
    version = (schema.metadata or {}).get(b"format_version")
    if version not in SCHEMAS:
        raise FormatVersionError(
            f"index format_version {version!r} is unknown; this version reads {[*SCHEMAS]}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if not schema.equals(SCHEMAS[version]):
        raise IntegrityError("the index has other columns than expected", where=where, do=RESTORE)


def _keys_unique(table: pa.Table) -> bool:
    return bool(len(table["key"].unique()) == table.num_rows)


def _ranges_fit(table: pa.Table, shard_size: int) -> bool:
    starts = np.stack([table["npy_offset"].to_numpy(), table["json_offset"].to_numpy()], axis=1).ravel()
    lengths = np.stack([table["npy_length"].to_numpy(), table["json_length"].to_numpy()], axis=1).ravel()
    # Each bound first, so that the sum below cannot overflow.
    if np.any(starts < TAR_BLOCK) or np.any(lengths <= 0) or np.any(np.maximum(starts, lengths) > shard_size):
        return False
    ends = starts + lengths
    # Each member's header block lies between the end of the one before it and its own data.
    return bool(np.all(ends <= shard_size) and np.all(starts[1:] >= ends[:-1] + TAR_BLOCK))


def _bricks_fit(table: pa.Table) -> bool:
    """Whether each row has a shape of two to four axes that its bytes can hold, no more points than a scan may
    have, and a checksum for each brick."""
    if table.num_rows == 0:
        return True
    shapes, checksums = (table[name].combine_chunks() for name in ("shape", "brick_crc32c"))
    points, length = shapes.flatten(), table["npy_length"].to_numpy()
    brick = table["brick_bytes"].to_numpy().astype(np.int64)
    if points.null_count or checksums.flatten().null_count or np.any(brick <= 0):
        return False
    axes, found = (values.value_lengths().to_numpy() for values in (shapes, checksums))
    if np.any(axes < 2) or np.any(axes > 4) or np.any(found != -(-length // brick)):
        return False
    fits = zip(shapes.to_pylist(), length, strict=True)
    return all(min(s) > 0 and math.prod(s) <= n and math.prod(s[1:]) <= MAX_VALUES for s, n in fits)
