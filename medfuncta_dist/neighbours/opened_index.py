"""An index in memory: one per split, of all its blocks, with the keys and labels of the scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from medfuncta_dist.neighbours import faiss_index
from medfuncta_dist.neighbours.faiss_index import Effort, from_bytes, merged
from medfuncta_dist.neighbours.index_record import Block, IndexRecord, read_metric, read_object, read_rows
from medfuncta_dist.neighbours.latent_metric import LatentMetric
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True, eq=False)
class SplitIndex:
    """The scans of one split."""

    split: str
    index: Any
    rows: pa.Table
    """``key`` and ``labels``, by place."""


class Near(NamedTuple):
    """Of each query, the nearest first: distance, number of the split, place there. Distance is infinite where there
    were no more."""

    distances: np.ndarray
    splits: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, eq=False)
class OpenedIndex:
    """All splits under one metric."""

    metric: LatentMetric
    effort: Effort
    splits: Sequence[SplitIndex]

    def with_effort(self, effort: Effort) -> OpenedIndex:
        """The same, searched otherwise."""
        return replace(self, effort=effort)

    def near(
        self, vectors: Float[np.ndarray, "query coordinate"], count: int, only: Sequence[str] | None = None
    ) -> Near:
        """The nearest scans of these splits (None: all), at most ``count``, as distances and places."""
        chosen = [n for n, one in enumerate(self.splits) if only is None or one.split in only]
        found = [faiss_index.search(self.splits[n].index, vectors, count, self.effort) for n in chosen]
        distances, places = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = np.argsort(distances, axis=1, kind="stable")[:, :count]
        numbers = np.broadcast_to(np.repeat(chosen, count), distances.shape)
        return Near(*(np.take_along_axis(part, order, axis=1) for part in (distances, numbers, places)))

    def keys_near(self, vectors: Float[np.ndarray, "query coordinate"], count: int) -> np.ndarray:
        """(query, near) keys of the nearest scans; "" where there were no more."""
        near = self.near(vectors, count)
        keys = [np.array(one.rows["key"].to_pylist()) for one in self.splits]
        found = [
            [keys[n][p] if p >= 0 else "" for n, p in zip(*hits, strict=True)]
            for hits in zip(near.splits, near.places, strict=True)
        ]
        return np.array(found)


def open_index(store: ObjectStore, folder: str, record: IndexRecord) -> OpenedIndex:
    """Read every object of an index; IntegrityError, before faiss sees any of it, where one is another."""
    names = list(dict.fromkeys(block.split for block in record.blocks))
    splits = [_open_split(store, folder, record, [b for b in record.blocks if b.split == name]) for name in names]
    return OpenedIndex(read_metric(store, folder, record.metric, record.map), record.effort, splits)


def _open_split(store: ObjectStore, folder: str, record: IndexRecord, blocks: Sequence[Block]) -> SplitIndex:
    index = merged(_read_block(store, folder, record, block) for block in blocks)
    rows = pa.concat_tables([read_rows(store, folder, block.rows) for block in blocks]).combine_chunks()
    return SplitIndex(blocks[0].split, index, rows)


def _read_block(store: ObjectStore, folder: str, record: IndexRecord, block: Block) -> Any:
    data, where = read_object(store, folder, block.index), store.uri(f"{folder}/{block.index.path}")
    return from_bytes(data, where, record.coordinates, block.scans)
