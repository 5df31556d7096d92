"""One block of an index: latents from the table's parts, as vectors of the metric, in an index of their own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.neighbours import faiss_index
from medfuncta_dist.neighbours.index_record import ROWS, Block, read_metric, read_object, read_tensors, write_object
from medfuncta_dist.neighbours.latent_metric import MetricName
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings

PROBED = 11
"""Nearest scans by which recall is measured: a probe itself, and its ten neighbours."""


@dataclass(frozen=True)
class BlockTask:
    """Some parts of one split; travels to a worker."""

    worker: WorkerSettings
    latents: str
    """The table's folder; ``folder`` is that of the index."""
    folder: str
    split: str
    parts: tuple[PartRef, ...]
    metric: MetricName
    map: PartRef | None
    learned: PartRef
    probes: PartRef | None
    """Vectors whose nearest scans are looked for among all."""

    @property
    def name(self) -> str:
        """For progress and errors."""
        return f"{self.split}-{self.parts[0].sha256[:12]}"


class Built(NamedTuple):
    """A block in storage, and the nearest of its scans to each probe."""

    block: Block
    distances: np.ndarray
    """(probe, near), and the keys of these scans in the same form."""
    keys: np.ndarray


def block_task(task: BlockTask) -> Built:
    """Make the block and write it. Repeating it writes the same objects."""
    store, _ = task.worker.open()
    faiss_index.use_threads(task.worker.threads)
    rows = read_latents(store, task.latents, task.parts)
    metric = read_metric(store, task.folder, task.metric, task.map)
    vectors = metric.coordinates(table_format.latents_of(rows))
    index = faiss_index.filled(read_object(store, task.folder, task.learned), vectors)
    block = Block(
        task.split,
        len(vectors),
        write_object(store, task.folder, index, "faiss"),
        write_object(store, task.folder, _rows_bytes(rows), "parquet"),
    )
    keys = np.array(rows["key"].to_pylist())
    if task.probes is None:
        return Built(block, np.empty((0, PROBED)), np.empty((0, PROBED), keys.dtype))
    probes = read_tensors(store, task.folder, task.probes)["probes"]
    hits = faiss_index.nearest_exactly(probes, vectors, PROBED)
    return Built(block, hits.distances, keys[hits.places])


def read_latents(store: ObjectStore, folder: str, parts: Sequence[PartRef]) -> pa.Table:
    """Keys, labels and latents of some parts, in their order."""
    return pa.concat_tables(table_format.read_parts(store, folder, parts, ["key", "labels", "latent"]))


def _rows_bytes(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    table = pa.Table.from_arrays([rows["key"], rows["labels"]], schema=ROWS)
    pq.write_table(table, buffer, use_dictionary=False, compression="ZSTD")
    return buffer.getvalue()
