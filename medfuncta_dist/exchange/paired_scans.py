"""Which file of the public code belongs to which packed scan: by its number, as both count the scans of one source.

The public code reads a MedMNIST file, or one CSV file, from its first scan to its last, and calls each latent by the
scan's number. A packed scan knows it as its item: ``train/12``, ``row/12``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Int

from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.object_store import ObjectStore

_ITEM = re.compile(r"[a-z][a-z0-9_]*/(0|[1-9]\d{0,9})")

Numbers = Mapping[str, Int[np.ndarray, " row"]]
"""SHA-256 of a shard → the number of each of its rows."""


def scan_numbers(store: ObjectStore, shards: Iterable[Shard]) -> Numbers | None:
    """The numbers of one split's scans. None where they have none: they come from several sources, or one by one.

    An index at a time is in memory. IntegrityError where one is damaged.
    """
    sources: set[str] = set()
    numbers: dict[str, Int[np.ndarray, " row"]] = {}
    for shard in shards:
        index = read_index(store, shard)
        sources.update(pc.unique(index["source"]).to_pylist())
        found = [_ITEM.fullmatch(item) for item in index["item"].to_pylist()]
        if len(sources) > 1 or None in found:
            return None
        numbers[shard.sha256] = np.array([int(one[1]) for one in found if one is not None], np.int64)
    whole = np.concatenate([*numbers.values(), np.zeros(0, np.int64)])
    return numbers if len(np.unique(whole)) == len(whole) else None
