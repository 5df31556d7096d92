"""Which scans of a table are chosen: by split and by label."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from medfuncta_dist.latent_table.catalogue.catalogue_reader import Entry

NO_LABEL = -1
Labels = int | Collection[int] | Mapping[int, int | Collection[int]]
"""Values of the scans' first label, or by place: ``{1: [0, 2]}`` is a second label of 0 or 2."""


@dataclass(frozen=True)
class ScanFilter:
    """Conditions that a scan must meet, all of them."""

    splits: frozenset[str] | None = None
    labels: tuple[tuple[int, frozenset[int]], ...] = ()
    """(place, values): a scan's label there must be one of these."""

    def with_also(self, splits: str | Collection[str] | None, labels: Labels | None) -> ScanFilter:
        """This filter, and more conditions."""
        names = None if splits is None else frozenset([splits] if isinstance(splits, str) else splits)
        both = self.splits if names is None else names if self.splits is None else names & self.splits
        return ScanFilter(both, (*self.labels, *_by_place(labels)))

    def __bool__(self) -> bool:
        return self.splits is not None or bool(self.labels)

    def holds(self, entry: Entry) -> bool:
        """Whether one scan is chosen."""
        known = self.splits is None or entry.split in self.splits
        return known and all(len(entry.labels) > place and entry.labels[place] in v for place, v in self.labels)

    def mask(self, rows: pa.Table) -> Bool[np.ndarray, " scan"]:
        """The same of rows with ``split`` and ``labels``."""
        mask = np.ones(rows.num_rows, bool)
        if self.splits is not None:
            mask &= pc.is_in(rows["split"], pa.array(sorted(self.splits), pa.string())).to_numpy()
        for place, values in self.labels:
            found, there = labels_at(rows["labels"], place)
            mask &= there & np.isin(found, sorted(values))
        return mask


def labels_at(column: pa.ChunkedArray, place: int) -> tuple[Int[np.ndarray, " scan"], Bool[np.ndarray, " scan"]]:
    """Each scan's label at a place, ``NO_LABEL`` where it has none there, and whether it has one."""
    parts = [_labels_of(chunk, place) for chunk in column.chunks]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, bool)
    values, there = zip(*parts, strict=True)
    return np.concatenate(values), np.concatenate(there)


def _labels_of(chunk: pa.ListArray, place: int) -> tuple[Int[np.ndarray, " scan"], Bool[np.ndarray, " scan"]]:
    offsets, values = chunk.offsets.to_numpy(), chunk.values.to_numpy()
    there = np.diff(offsets) > place
    found = np.full(len(chunk), NO_LABEL, np.int64)
    found[there] = values[offsets[:-1][there] + place]
    return found, there


def _by_place(labels: Labels | None) -> Sequence[tuple[int, frozenset[int]]]:
    if labels is None:
        return ()
    places = labels if isinstance(labels, Mapping) else {0: labels}
    return tuple((place, frozenset([v] if isinstance(v, int) else v)) for place, v in sorted(places.items()))
