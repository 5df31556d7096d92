"""One task of a data report: the samples of one shard, counted, a few of them with their values."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.data_report.tally import ModalityTally, Place, lot_of
from medfuncta_dist.shards.sample import decode, parse_meta
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache


@dataclass(frozen=True)
class ShardTask:
    """``measured``: share of the samples whose values are counted; ``pictures``: samples to name per modality."""

    root: str
    cache_folder: str
    cache_bytes: int
    split: str
    shard: Shard
    measured: float
    pictures: int

    def open(self) -> tuple[ObjectStore, ShardCache]:
        """Storage and cache in this process."""
        store = ObjectStore(self.root)
        return store, ShardCache(store, Path(self.cache_folder), self.cache_bytes)


def tally_shard(task: ShardTask) -> dict[str, ModalityTally]:
    """The shard's tallies by modality. IntegrityError where the shard or a sample is damaged."""
    store, cache = task.open()
    cache.path(task.shard)
    found: dict[str, ModalityTally] = {}
    with closing(SampleReader(store, [task.shard], cache)) as reader:
        for row, key in enumerate(reader.keys(0)):
            members = reader.read(SampleId(0, row))
            meta = parse_meta(key, members["json"])
            tally = found.setdefault(meta["modality"], ModalityTally())
            tally.count(meta, Place(key, task.split, task.shard, row), task.pictures)
            if is_drawn(key, task.measured):
                sample = decode(key, members["npy"], members["json"])
                tally.measure(sample.array, sample.window.low, sample.window.high)
    return {modality: tally.finished(task.pictures) for modality, tally in found.items()}


def is_drawn(key: str, share: float) -> bool:
    """Whether a sample is among this share of all: a random choice, but the same one each time."""
    return lot_of(key) < share * 2**64
