"""The chosen rows as a streamed data set of Hugging Face's library ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.latent_table.arrow_batches import float_rows, float_schema
from medfuncta_dist.latent_table.part_reads import PartRead, PartSource
from medfuncta_dist.latents.table_format import Storage


def iterable_dataset(
    source: PartSource, reads: Sequence[PartRead], storage: Storage, columns: Sequence[str] | None
) -> Any:
    """These rows, ``latent`` as float32; a shard per part. MedfunctaError where ``datasets`` is not installed."""
    try:
        from datasets import Features, IterableDataset
    except ImportError as error:
        do = "pip install 'medfuncta-dist[huggingface]'"
        raise MedfunctaError("the library datasets is not installed", where="hugging_face", do=do) from error
    schema = float_schema(storage, columns, source.patched)
    given = {"reads": list(reads), "source": replace(source, parts=()), "schema": schema}
    return IterableDataset.from_generator(_rows, Features.from_arrow_schema(schema), gen_kwargs=given)


def _rows(reads: Sequence[PartRead], source: PartSource, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """What a worker generates: ``datasets`` shares lists, here the reads, out among its workers."""
    for table in source.tables(reads, schema.names):
        rows = float_rows(table, schema)
        latents = rows["latent"].combine_chunks() if "latent" in rows.column_names else None
        rest = rows.drop_columns(["latent"]) if latents is not None else rows
        width = latents.type.list_size if latents is not None else 0
        numbers = latents.flatten().to_numpy().reshape(-1, width) if latents is not None else None
        for place, row in enumerate(rest.to_pylist()):
            yield row if numbers is None else row | {"latent": numbers[place]}
