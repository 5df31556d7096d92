"""The training loop's batches: a webdataset pipeline whose source gives verified samples in our order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import webdataset as wds

from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.streaming.prefetch import Prefetched, prefetch
from medfuncta_dist.streaming.sample_order import EpochOrder, SampleId, position
from medfuncta_dist.streaming.sample_reader import Members, SampleReader

READ_AHEAD = 4
"""Batches. Hides delays of a few steps, for the memory of as many batches per rank."""
FETCH_AHEAD = 4096
"""Scans. The shards of the next so many scans are fetched in the background, which takes seconds."""

Change = Callable[[npt.NDArray[np.float32], int, str], npt.NDArray[np.float32]]
"""From a scan's values (channel, *spatial), the epoch and the scan's key to the values that are trained on."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A rank's scans of one outer step. ``values``: float32 (batch, point, channel) in [0, 1]."""

    step: int
    epoch: int
    keys: list[str]
    values: npt.NDArray[np.float32]


class Placed(TypedDict):
    """A sample in the pipeline, with its outer step."""

    step: int
    epoch: int
    members: Members


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded sample, with its outer step."""

    step: int
    epoch: int
    sample: Sample


def training_stream(
    reader: SampleReader,
    order_of_epoch: Callable[[int], EpochOrder],
    start_step: int,
    stop_step: int,
    rank_slice: slice,
    change: Change | None = None,
) -> Prefetched[Batch]:
    """This rank's batches of the outer steps ``start_step`` … ``stop_step - 1``, read ahead by one thread.

    The thread applies ``change``, a pure function, to each scan. A stream that starts at step s gives the same batches
    as one that started at 0. Raises IntegrityError or StorageError at the batch that cannot be read, RunFileError when
    an epoch has no whole batch.
    """
    planned = _planned(order_of_epoch, range(start_step, stop_step), rank_slice)
    return _stream(reader, planned, rank_slice.stop - rank_slice.start, change)


def pass_stream(
    reader: SampleReader, passes: Iterable[Sequence[SampleId]], size: int, change: Change | None = None
) -> Prefetched[Batch]:
    """The scans of one pass after the other, in batches of ``size`` but the last; pass n is changed as in epoch n."""
    planned = ((0, epoch, sample) for epoch, ids in enumerate(passes) for sample in ids)
    return _stream(reader, planned, size, change)


def _stream(
    reader: SampleReader, planned: Iterable[tuple[int, int, SampleId]], size: int, change: Change | None
) -> Prefetched[Batch]:
    pipeline = wds.DataPipeline(
        lambda: _placed(reader, planned), wds.map(_decoded), lambda samples: _batched(samples, size, change)
    )
    return prefetch(pipeline, READ_AHEAD)


def scan_batches(reader: SampleReader, ids: Sequence[SampleId]) -> Iterator[Sample]:
    """The decoded scans of ``ids``, one by one in the order given."""
    for sample in ids:
        yield _decode(reader.read(sample))


def _placed(reader: SampleReader, planned: Iterable[tuple[int, int, SampleId]]) -> Iterator[Placed]:
    """The first stage: members of this rank's scans, step by step. Shards without any are not opened."""
    for step, epoch, sample in _expected(reader, planned):
        yield {"step": step, "epoch": epoch, "members": reader.read(sample)}


def _planned(
    order_of_epoch: Callable[[int], EpochOrder], steps: range, part: slice
) -> Iterator[tuple[int, int, SampleId]]:
    """(step, epoch, scan) of this rank's scans, in order."""
    order, ordered = order_of_epoch(0), 0
    for step in steps:
        epoch, g = position(step, order.batches)
        if epoch != ordered:
            order, ordered = order_of_epoch(epoch), epoch
        for sample in order.batch(g)[part]:
            yield step, epoch, sample


def _expected(
    reader: SampleReader, planned: Iterable[tuple[int, int, SampleId]]
) -> Iterator[tuple[int, int, SampleId]]:
    """The same; each shard is expected ``FETCH_AHEAD`` scans before its first scan is read."""
    ahead: deque[tuple[int, int, SampleId]] = deque()
    try:
        for place in planned:
            reader.expect(place[2].shard)
            ahead.append(place)
            if len(ahead) > FETCH_AHEAD:
                yield ahead.popleft()
        yield from ahead
    finally:
        reader.close()


def _decoded(placed: Placed) -> Decoded:
    return Decoded(placed["step"], placed["epoch"], _decode(placed["members"]))


def _decode(members: Members) -> Sample:
    return decode(members["__key__"], members["npy"], members["json"])


def _batched(samples: Iterable[Decoded], size: int, change: Change | None) -> Iterator[Batch]:
    """Batches of ``size`` samples, one per step: a rank's share is the same at each step."""
    samples = iter(samples)
    while taken := list(islice(samples, size)):
        values = np.empty((len(taken), *_points_shape(taken[0].sample)), np.float32)
        for decoded, row in zip(taken, values, strict=True):
            decoded.sample.fill(row)
            if change is not None:
                _changed(row, decoded, change)
        yield Batch(taken[0].step, taken[0].epoch, [decoded.sample.key for decoded in taken], values)


def points(sample: Sample) -> npt.NDArray[np.float32]:
    """Values as (point, channel), points in the order of the coordinate grid."""
    values = np.empty(_points_shape(sample), np.float32)
    sample.fill(values)
    return values


def _points_shape(sample: Sample) -> tuple[int, int]:
    channels, *spatial = sample.array.shape
    return math.prod(spatial), channels


def _changed(values: npt.NDArray[np.float32], decoded: Decoded, change: Change) -> None:
    """Replace a scan's values, (point, channel), by what ``change`` makes of them."""
    scan = values.T.reshape(decoded.sample.array.shape)
    values.T[...] = change(scan, decoded.epoch, decoded.sample.key).reshape(values.T.shape)
