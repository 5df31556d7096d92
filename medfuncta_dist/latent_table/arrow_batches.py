"""The chosen rows as a stream of Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.latent_table.part_reads import PartRead, PartSource, with_float_latents
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format import patch_rows
from medfuncta_dist.latents.table_format import Storage


def batch_reader(
    source: PartSource, reads: Sequence[PartRead], storage: Storage, columns: Sequence[str] | None
) -> pa.RecordBatchReader:
    """A reader of these rows; ``latent`` as float32. RunFileError for a column that there is none of."""
    schema = float_schema(storage, columns, source.patched)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in source.tables(reads, schema.names):
            yield from float_rows(table, schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def float_schema(storage: Storage, columns: Sequence[str] | None, patched: bool = False) -> pa.Schema:
    """The columns that are asked for, None for all, with ``latent`` as float32."""
    kind = patch_rows if patched else table_format
    whole = kind.schema(storage.numbers, "float32", {}).remove_metadata()
    unknown = [name for name in columns or () if name not in whole.names]
    if unknown:
        do = f"choose among {', '.join(whole.names)}"
        raise RunFileError(f"a latent table has no column '{unknown[0]}'", where="columns", do=do)
    return whole if columns is None else pa.schema([whole.field(name) for name in columns])


def float_rows(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Stored rows in this schema."""
    return with_float_latents(table).select(schema.names).replace_schema_metadata(None).cast(schema)
