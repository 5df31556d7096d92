"""runs/<name>/imported/commit.json: latents that were imported without their scans (kind "imported").

{"network": <network digest>, "shape": [...], "channels": 1, "scans_per_range": 1024,
 "splits": {<split>: {"digest": <of the list of its files>, "scans": <files>}}}

Such a run has no data set. What a table needs of one is made from this record: each split counts as one shard, called
by its digest, which is not in storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medfuncta_dist.errors import ObjectMissingError
from medfuncta_dist.shards.snapshot import Shard, Snapshot
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore

KIND = "imported"


@dataclass(frozen=True)
class ImportedSplit:
    """The files of one split: a digest of their list, and their number."""

    digest: str
    scans: int


@dataclass(frozen=True)
class Imported:
    """The record's body. ``shape`` and ``channels`` are those of the scans that the latents stand for."""

    network: str
    shape: tuple[int, ...]
    channels: int
    scans_per_range: int
    splits: Mapping[str, ImportedSplit]

    def body(self) -> dict[str, Any]:
        """As JSON objects."""
        return asdict(self) | {"shape": list(self.shape)}

    def as_snapshot(self, dataset: str) -> Snapshot:
        """What stands for a snapshot. None of its shards can be read."""
        shards = {split: [_shard(files)] for split, files in self.splits.items()}
        return Snapshot(dataset, None, {"shape": list(self.shape), "channels": self.channels}, shards)


def _shard(files: ImportedSplit) -> Shard:
    return Shard("", 0, files.digest, files.scans, "", 0, "")


def imported_path(run: str) -> str:
    """Path of the record, relative to the storage root."""
    return f"runs/{run}/imported/commit.json"


def imported_record(store: ObjectStore, run: str) -> Imported | None:
    """The record of a run; None where nothing was imported without scans. IntegrityError if it is damaged."""
    try:
        return read_as(Imported, store, imported_path(run), KIND)
    except ObjectMissingError:
        return None
