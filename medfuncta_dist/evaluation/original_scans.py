"""Original scans for evaluation, read from verified shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ScanError
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache


@dataclass(frozen=True)
class Pick:
    """One scan, by its position."""

    shard: Shard
    row: int


def read_samples(store: ObjectStore, cache: ShardCache, picks: Sequence[Pick]) -> Iterator[Sample]:
    """The picked scans, one in memory at a time, in the order given. IntegrityError where one is damaged."""
    shards = list(dict.fromkeys(pick.shard for pick in picks))
    place = {shard: i for i, shard in enumerate(shards)}
    with closing(SampleReader(store, shards, cache)) as reader:
        for pick in picks:
            yield _sample(reader, SampleId(place[pick.shard], pick.row))


def read_picks(store: ObjectStore, cache: ShardCache, picks: Sequence[Pick]) -> list[np.ndarray]:
    """Values of the picked scans: float32 (channel, *spatial) in [0, 1]."""
    return [sample.values() for sample in read_samples(store, cache, picks)]


def values_of_shard(
    store: ObjectStore, cache: ShardCache, shard: Shard, rows: Iterable[int] | None = None
) -> Iterator[np.ndarray]:
    """Values of a shard's scans: of all, or of these rows. One that cannot be read is left out: the fit stage has
    quarantined it."""
    cache.path(shard)  # a shard that is damaged as a whole is an error
    with closing(SampleReader(store, [shard], cache)) as reader:
        for row in range(shard.samples) if rows is None else rows:
            try:
                yield _sample(reader, SampleId(0, row)).values()
            except FormatVersionError:
                raise
            except (ScanError, IntegrityError):
                continue


def _sample(reader: SampleReader, sample: SampleId) -> Sample:
    members = reader.read(sample)
    return decode(members["__key__"], members["npy"], members["json"])
