"""The training loop's batches: a webdataset pipeline whose source gives verified samples in our order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

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
Read = Callable[[SampleId, int], Sample]
"""From a place in an epoch's order, and the epoch, to what is read there: a scan, or a patch of one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A rank's scans of one outer step. ``values``: float32 (batch, point, channel) in [0, 1]."""

    step: int
    epoch: int
    keys: list[str]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A sample that was read, with its outer step."""

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
    read: Read | None = None,
) -> Prefetched[Batch]:
    """This rank's batches of the outer steps ``start_step`` … ``stop_step - 1``, read ahead by one thread.

    ``read`` None: whole scans. The thread applies ``change``, a pure function, to each of what is read. A stream that
    starts at step s gives the same batches as one that started at 0. Raises IntegrityError or StorageError at the batch
    that cannot be read, RunFileError when an epoch has no whole batch.
    """
    planned = _planned(order_of_epoch, range(start_step, stop_step), rank_slice)
    return _stream(reader, planned, rank_slice.stop - rank_slice.start, change, read)


def pass_stream(
    reader: SampleReader,
    passes: Iterable[Sequence[SampleId]],
    size: int,
    change: Change | None = None,
    read: Read | None = None,
) -> Prefetched[Batch]:
    """What is read in one pass after the other, in batches of ``size`` but the last; pass n is as in epoch n."""
    planned = ((0, epoch, sample) for epoch, ids in enumerate(passes) for sample in ids)
    return _stream(reader, planned, size, change, read)


def _stream(
    reader: SampleReader,
    planned: Iterable[tuple[int, int, SampleId]],
    size: int,
    change: Change | None,
    read: Read | None,
) -> Prefetched[Batch]:
    pipeline = wds.DataPipeline(
        lambda: _expected(reader, planned),
        wds.map(lambda placed: _decoded(placed, read or whole_scans(reader))),
        lambda samples: _batched(samples, size, change),
    )
    return prefetch(pipeline, READ_AHEAD)


def whole_scans(reader: SampleReader) -> Read:
    """What is read where a scan is one patch."""
    return lambda sample, epoch: _decode(reader.read(sample))


def scan_batches(reader: SampleReader, ids: Sequence[SampleId]) -> Iterator[Sample]:
    """The decoded scans of ``ids``, one by one in the order given."""
    for sample in ids:
        yield _decode(reader.read(sample))


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


def _decoded(placed: tuple[int, int, SampleId], read: Read) -> Decoded:
    step, epoch, sample = placed
    return Decoded(step, epoch, read(sample, epoch))


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
