"""The column ``latent`` of curved latents: a stream of bytes per row, and what the schema's metadata says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.latents.curved.stored_tables import OpenTables
from medfuncta_dist.storage.parsing.strict_json import RESTORE

TABLES, NUMBERS = "tables", "numbers"
MOST_NUMBERS = 2**18
LARGEST_PART = 2**31
"""Bytes of its latents as float32; the fit stage chooses parts of 2²⁸ at most."""
DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"[1-9][0-9]{0,5}")


class StreamFacts(NamedTuple):
    """What a schema tells of its streams."""

    tables: str
    """SHA-256 of the tables."""
    numbers: int
    """Of a latent."""


def is_streams(schema: pa.Schema) -> bool:
    """Whether latents are streams."""
    return "latent" in schema.names and pa.types.is_binary(schema.field("latent").type)


def written(tables: str, numbers: int) -> dict[str, str]:
    """As metadata."""
    return {TABLES: tables, NUMBERS: str(numbers)}


def facts_of(metadata: Mapping[bytes, bytes] | None, where: str = "") -> StreamFacts:
    """The inverse; IntegrityError where it is something else."""
    digest, numbers = ((metadata or {}).get(name.encode(), b"").decode(errors="replace") for name in (TABLES, NUMBERS))
    if not DIGEST.fullmatch(digest) or not NUMBER.fullmatch(numbers) or int(numbers) > MOST_NUMBERS:
        raise IntegrityError("a latent table of streams that does not name its tables", where=where, do=RESTORE)
    return StreamFacts(digest, int(numbers))


def require_size(rows: int, numbers: int, where: str = "") -> None:
    """IntegrityError for a part whose latents would take more memory than ``LARGEST_PART``: a stream may be a few bytes
    long, whatever the numbers that it gives."""
    if 4 * rows * numbers > LARGEST_PART:
        raise IntegrityError(
            f"a part of {rows} curved latents of {numbers} numbers each, more than {LARGEST_PART} bytes",
            where=where,
            do=f"if the part is yours, lower fit.scans_per_task; else {RESTORE}",
        )


def decoded(table: pa.Table, opened: OpenTables, metadata: Mapping[bytes, bytes], where: str = "") -> pa.Table:
    """The table with float32 latents, and this metadata. IntegrityError for a stream that is none."""
    if opened.tables.latent != facts_of(table.schema.metadata, where).numbers:
        raise IntegrityError("a latent table of streams whose tables are of another length", where=where, do=RESTORE)
    require_size(table.num_rows, opened.tables.latent, where)
    values = opened.latents(table["latent"].to_pylist(), where)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    place = table.schema.get_field_index("latent")
    return table.set_column(place, pa.field("latent", column.type, nullable=False), column).replace_schema_metadata(
        dict(metadata)
    )
