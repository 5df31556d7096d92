"""The chosen rows as a Ray Dataset: its tasks read the parts where they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from medfuncta_dist.latent_table.arrow_batches import float_rows, float_schema
from medfuncta_dist.latent_table.part_reads import PartRead, PartSource
from medfuncta_dist.latents.table_format import Storage

OTHER_BYTES = 200
"""Of a row beside its latent, about."""


def ray_dataset(
    source: PartSource, reads: Sequence[PartRead], storage: Storage, columns: Sequence[str] | None
) -> ray.data.Dataset:
    """These rows; ``latent`` as float32. RunFileError for a column that there is none of."""
    schema = float_schema(storage, columns, source.patched)
    if not reads:
        return ray.data.from_arrow(schema.empty_table())
    row_bytes = OTHER_BYTES + (4 * storage.numbers if "latent" in schema.names else 0)
    dataset: ray.data.Dataset = ray.data.read_datasource(PartDatasource(source, reads, schema, row_bytes))
    return dataset


class PartDatasource(Datasource):
    """Read tasks of neighbouring parts."""

    def __init__(self, source: PartSource, reads: Sequence[PartRead], schema: pa.Schema, row_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source, self._reads, self._schema, self._row_bytes = source, reads, schema, row_bytes

    def get_name(self) -> str:
        return "Latents"

    def estimate_inmemory_data_size(self) -> int | None:
        return self._row_bytes * sum(len(read.rows) for read in self._reads)

    def get_read_tasks(self, parallelism: int, *args: object, **options: object) -> list[ReadTask]:
        """``parallelism`` tasks at most, each of neighbouring parts."""
        size = -(-len(self._reads) // max(1, parallelism)) or 1
        return [self._task(self._reads[start : start + size]) for start in range(0, len(self._reads), size)]

    def _task(self, reads: Sequence[PartRead]) -> ReadTask:
        # Only the parts that it reads travel with a task.
        source, schema = replace(self._source, parts=()), self._schema
        rows = sum(len(read.rows) for read in reads)
        described = BlockMetadata(num_rows=rows, size_bytes=rows * self._row_bytes, exec_stats=None)

        def read_blocks() -> Iterator[pa.Table]:
            for table in source.tables(reads, schema.names):
                yield float_rows(table, schema)

        return ReadTask(read_blocks, described, schema=schema)
