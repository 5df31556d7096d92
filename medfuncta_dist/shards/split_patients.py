"""Whether a patient is in several splits, from the groups in the indexes: exact, and in memory by patient, not scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.shards.data_contract import SplitsBy, splits_by
from medfuncta_dist.shards.snapshot import Snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.ordered_reads import read_in_order

READS = 8
"""Indexes read at once: storage takes longer to answer than an index to parse."""
MERGED = 2**16
"""Groups, or shards, that are added before they are merged."""
GROUP_BYTES = 16
"""Of a group's key: 128 bits tell any number of patients apart."""
GROUP = np.dtype(f"S{GROUP_BYTES}")


@dataclass(frozen=True)
class ShardGroups:
    """The distinct groups of a shard, sorted, and its scans by how their group was found."""

    groups: np.ndarray
    """(group,) of type ``GROUP``."""
    by: Mapping[str, int]


@dataclass(frozen=True)
class SplitPatients:
    """The patients of a data set. Scans without one (``by``: scan, file) are in none of the counts of patients."""

    patients: int
    in_several_splits: int
    by: dict[str, int] = field(default_factory=dict)
    """Scans by how their group was found (``patient_group.WAYS``)."""
    by_split: dict[str, int] = field(default_factory=dict, compare=False)
    """Patients of each split."""


def groups_in(index: pa.Table) -> ShardGroups | None:
    """The groups of an index; None where it has none (version 1)."""
    if "group" not in index.column_names:
        return None
    keys = pc.unique(index["group"]).to_pylist()
    groups = np.frombuffer(b"".join(bytes.fromhex(key)[:GROUP_BYTES] for key in keys if key), GROUP)
    return ShardGroups(_distinct([groups]), Counter(index["group_by"].to_pylist()))


class PatientTally:
    """Collects the groups of shards, split by split."""

    def __init__(self) -> None:
        self._by: Counter[str] = Counter()
        self._parts: dict[str, list[np.ndarray]] = {}
        self._added: Counter[str] = Counter()
        """By split: groups in all its parts but the first, which holds what was merged."""

    def add(self, split: str, shard: ShardGroups) -> None:
        """Add one shard's."""
        self._by.update(shard.by)
        parts = self._parts.setdefault(split, [])
        parts.append(shard.groups)
        self._added[split] += len(shard.groups) if len(parts) > 1 else 0
        # Merged before repeated patients, or the parts of many small shards, fill the memory.
        if self._added[split] > max(len(parts[0]), MERGED) or len(parts) > MERGED:
            parts[:], self._added[split] = [_distinct(parts)], 0

    def result(self) -> SplitPatients:
        """What was found in all of them."""
        splits = {name: _distinct(parts) for name, parts in self._parts.items()}
        everyone = np.concatenate([*splits.values()]) if splits else np.empty(0, GROUP)
        _, places = np.unique(everyone, return_counts=True)
        by_split = {name: len(groups) for name, groups in sorted(splits.items())}
        return SplitPatients(len(places), int((places > 1).sum()), dict(sorted(self._by.items())), by_split)


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(parts))


def split_patients(store: ObjectStore, snapshot: Snapshot) -> SplitPatients | None:
    """Read all indexes of a snapshot; None where it was not split by patient, so that nobody knows them."""
    if "group" not in snapshot.contract:
        return None
    shards = [(split, shard) for split, listed in snapshot.splits.items() for shard in listed]
    tally = PatientTally()
    found = read_in_order(lambda item: groups_in(read_index(store, item[1])), shards, READS)
    for (split, _), groups in zip(shards, found, strict=True):
        if groups is not None:
            tally.add(split, groups)
    return tally.result()


def require_apart(found: SplitPatients | None, contract: Mapping[str, Any], where: str) -> None:
    """IntegrityError where a patient is in several splits although no split was given: that is a bug, or damage."""
    if found is not None and found.in_several_splits and splits_by(contract) is not SplitsBy.GIVEN:
        raise IntegrityError(
            f"{found.in_several_splits} of {found.patients} patients are in several splits",
            where=where,
            do="report this as a bug, and pack the archive again under another data.dataset",
        )
