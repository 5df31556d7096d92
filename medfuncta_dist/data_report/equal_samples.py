"""Samples that are equal in every byte, array and metadata, although they come from different places in the archive.

From the checksums in the indexes alone: 64 bits of each sample. Among ten million samples, two that differ count as
equal with a probability of 3 in a million.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from medfuncta_dist.shards.snapshot import Snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore

READS = 8
"""Indexes read at once."""
AT_ONCE = 2**24
"""Samples that are compared in one pass over the indexes: 300 MB of memory. More take several passes."""


@dataclass(frozen=True)
class EqualSamples:
    """``copies``: samples that equal an earlier one. ``across_splits``: different samples with an equal one in another
    split."""

    copies: int
    across_splits: int


def equal_samples(store: ObjectStore, snapshot: Snapshot, at_once: int = AT_ONCE) -> EqualSamples:
    """Compare all samples of a snapshot."""
    passes = max(1, -(-snapshot.samples // at_once))
    copies = across = 0
    for number in range(passes):
        marks, splits = _marks(store, snapshot, number, passes)
        order = np.argsort(marks, kind="stable")
        found = _compared(marks[order], splits[order])
        copies, across = copies + found.copies, across + found.across_splits
    return EqualSamples(copies, across)


def _compared(marks: np.ndarray, splits: np.ndarray) -> EqualSamples:
    """Of marks in order, and the split of each."""
    if not len(marks):
        return EqualSamples(0, 0)
    new = np.concatenate([[True], marks[1:] != marks[:-1]])
    group = np.cumsum(new) - 1
    lowest, highest = np.full(group[-1] + 1, 2**15, np.int32), np.full(group[-1] + 1, -1, np.int32)
    np.minimum.at(lowest, group, splits)
    np.maximum.at(highest, group, splits)
    return EqualSamples(int((~new).sum()), int((lowest < highest).sum()))


def _marks(store: ObjectStore, snapshot: Snapshot, number: int, passes: int) -> tuple[np.ndarray, np.ndarray]:
    """Checksums of the samples of one pass, and the number of the split of each."""
    marks, splits = [np.empty(0, np.uint64)], [np.empty(0, np.int16)]
    for split, found in _indexes(store, snapshot):
        mark = (found["npy_crc32c"].to_numpy().astype(np.uint64) << np.uint64(32)) | found["json_crc32c"].to_numpy()
        mine = mark[mark % np.uint64(passes) == number]
        marks.append(mine)
        splits.append(np.full(len(mine), split, np.int16))
    return np.concatenate(marks), np.concatenate(splits)


def _indexes(store: ObjectStore, snapshot: Snapshot) -> Iterator[tuple[int, pa.Table]]:
    shards = [(n, shard) for n, name in enumerate(sorted(snapshot.splits)) for shard in snapshot.splits[name]]
    with ThreadPoolExecutor(READS, "indexes") as pool:
        for start in range(0, len(shards), READS):
            some = shards[start : start + READS]
            yield from zip((n for n, _ in some), pool.map(lambda item: read_index(store, item[1]), some), strict=True)
