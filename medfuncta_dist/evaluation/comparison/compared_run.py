"""One of the two runs of a comparison: its table, its scores, and what it costs to keep."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.fitted_table import FittedTable, open_fitted
from medfuncta_dist.evaluation.stored_scores import current_scores
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.ordered_reads import read_in_order

SCALE_BYTES = 4
"""Of an int8 latent: the number that its numbers are multiples of."""
READS = 8
"""Indexes read at once."""


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run that has been evaluated."""

    run: RunFile
    fitted: FittedTable
    scores: pa.Table

    @classmethod
    def open(cls, run: RunFile) -> ComparedRun:
        """StageOrderError where the run's latents have not been evaluated."""
        fitted = open_fitted(run)
        return cls(run, fitted, current_scores(fitted, run.name)[1])

    def facts(self) -> dict[str, Any]:
        """Names, digests and sizes, as JSON objects."""
        target, storage = self.fitted.target, self.fitted.storage
        assert storage is not None  # scores exist, so latents do
        store, network = self.fitted.store, target.network
        return {
            "name": self.run.name,
            "dataset": {"name": target.snapshot.name, "digest": target.snapshot.digest},
            "network": {
                "digest": network.digest,
                "bytes": store.size(network.weights) + store.size(network.description),
            },
            "field": self.fitted.network.spec.KIND,
            "shape": list(target.snapshot.contract["shape"]),
            "latent": {
                "type": storage.storage_type,
                "numbers": storage.numbers,
                "of": self.fitted.network.spec.latent,
                "bytes": self._latent_bytes(storage),
            },
            "table_bytes": self.fitted.part_bytes + self.fitted.shared_bytes,
            "fitted": self.fitted.counts.fitted,
            "quarantined": self.fitted.counts.quarantined,
            "flagged": self.fitted.counts.flagged,
        }

    def _latent_bytes(self, storage: Storage) -> int:
        """Of one latent; of curved ones, whose lengths differ, a row of the table on average, which is more."""
        if storage.storage_type == "curved":
            return round(self.fitted.part_bytes / max(self.fitted.counts.fitted, 1))
        per_number = np.dtype(storage.storage_type).itemsize
        return storage.numbers * per_number + (SCALE_BYTES if storage.storage_type == "int8" else 0)

    def patients(self, shards: Collection[str]) -> dict[str, str] | None:
        """Key of a scan → key of its patient, of these shards (SHA-256); None where the data set knows no patients."""
        chosen = {work.shard for work in self.fitted.target.works if work.shard.sha256 in shards}
        found: dict[str, str] = {}
        for index in read_in_order(lambda shard: read_index(self.fitted.store, shard), chosen, READS):
            if "group" in index.column_names:
                found |= dict(zip(index["key"].to_pylist(), index["group"].to_pylist(), strict=True))
        return found if any(found.values()) else None
