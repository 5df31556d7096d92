"""Sample order as a pure function: (seed, epoch, split digest) -> which scans are in global batch g.

Nothing here depends on world size or rank, so a run that resumes on another number of workers continues with exactly
the scans that it would have read. An epoch is built like this:

1. the split's shards are permuted;
2. they are dealt, like cards, into C = min(batch, shards) canonical streams;
3. each stream is cut into blocks of at most ``window`` scans, at an offset drawn per epoch, and each block permuted;
4. the streams are read round-robin (one that has ended is passed over), ``batch`` scans per global batch;
5. the last, partial batch is dropped, and counted.

A stream is a sequence of shards and a block spans few of them: a worker reads a few shards at a time, each once. Where
an epoch visits each scan several times, a window of visits may be many shards of few scans, so what is read at a time
is bounded: there are fewer streams, and shorter blocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.random_numbers import permutation, random_numbers

Indices = npt.NDArray[np.int64]


class SampleId(NamedTuple):
    """The position of a scan: its shard's position in the split, and its row in the shard's index."""

    shard: int
    row: int


class EpochOrder:
    """The global batches of one epoch, with random access: ``batch(g)`` costs O(batch), plus a block when one begins.

    ``shard_samples``: scans of each shard of the split, in the snapshot's order; ``digest``: the split's digest;
    ``shards_at_once``: about how many shards the blocks of all streams may span together, at least 2: exactly so for
    shards of one length, on average up to twice as many where lengths differ. None for no bound.
    """

    def __init__(
        self,
        shard_samples: Sequence[int],
        *,
        batch: int,
        seed: int,
        epoch: int,
        digest: str,
        window: int,
        shards_at_once: int | None = None,
    ) -> None:
        if batch < 1 or window < 1:
            raise ValueError("batch and window must be at least 1")
        self._samples: Indices = np.asarray(shard_samples, dtype=np.int64)
        streams = min(batch, len(self._samples))
        if shards_at_once is not None:
            streams, window = _bounded(streams, window, self._samples, shards_at_once)
        self._batch, self._window = batch, window
        self._name = f"{seed}/{epoch}/{digest}"
        self._streams = self._deal(streams)
        # Lists, because they are searched for one number at a time: bisect is ten times faster than NumPy there.
        self._ends = [list(accumulate(self._samples[shards].tolist())) for shards in self._streams]
        self._round_robin = _RoundRobin([ends[-1] for ends in self._ends])
        self._shifts = [self._shift(stream, ends[-1]) for stream, ends in enumerate(self._ends)]
        self._blocks: dict[int, tuple[int, Indices]] = {}
        self.batches, self.dropped = divmod(int(self._samples.sum()), batch)

    def batch(self, g: int) -> list[SampleId]:
        """The scans of global batch ``g``, the same at any world size."""
        if not 0 <= g < self.batches:
            raise IndexError(f"global batch {g} of {self.batches}")
        return [self._sample(*self._round_robin.locate(p)) for p in range(g * self._batch, (g + 1) * self._batch)]

    def scans(self, count: int) -> list[SampleId]:
        """The first ``count`` scans, or all there are: with those of the last, partial batch."""
        total = self.batches * self._batch + self.dropped
        return [self._sample(*self._round_robin.locate(p)) for p in range(min(count, total))]

    def _deal(self, streams: int) -> list[Indices]:
        shards = permutation(len(self._samples), self._name, "shards")
        return [shards[s::streams] for s in range(streams)]

    def _shift(self, stream: int, length: int) -> int:
        """How far the stream's first block is cut short; a stream that fits into the window is one block."""
        return int(random_numbers(1, self._name, "shift", stream)[0]) % self._window if length > self._window else 0

    def _sample(self, stream: int, index: int) -> SampleId:
        """The scan at ``index`` of a stream, in shuffled order."""
        place = self._shuffled(stream, index)
        ends = self._ends[stream]
        nth = bisect_right(ends, place)
        shard = int(self._streams[stream][nth])
        return SampleId(shard, place - ends[nth] + int(self._samples[shard]))

    def _shuffled(self, stream: int, index: int) -> int:
        """Index before shuffling of the scan at shuffled ``index``: both are in the same block."""
        block, shift = (index + self._shifts[stream]) // self._window, self._shifts[stream]
        first = max(block * self._window - shift, 0)
        if self._blocks.get(stream, (-1,))[0] != block:
            last = min((block + 1) * self._window - shift, self._ends[stream][-1])
            self._blocks[stream] = block, permutation(last - first, self._name, "block", stream, block)
        return first + int(self._blocks[stream][1][index - first])


def _bounded(streams: int, window: int, samples: Indices, shards: int) -> tuple[int, int]:
    """Streams and window whose blocks span about so many shards together: one of n whole shards spans n + 1 of them,
    as it begins anywhere in one. The middle length counts, as a few large shards may be among many small ones."""
    if not samples.any():
        return streams, window
    streams = min(streams, shards // 2)
    middle = int(np.quantile(samples[samples > 0], 0.5, method="lower"))
    return streams, min(window, (shards // streams - 1) * middle)


class _RoundRobin:
    """Round-robin over streams of unequal lengths, with random access: position -> (stream, index in the stream)."""

    def __init__(self, lengths: Sequence[int]) -> None:
        levels = [0, *sorted({n for n in lengths if n > 0})]
        # Between two levels the same streams are alive, so the rounds there have equal lengths.
        self._levels = levels[:-1]
        self._alive = [[s for s, n in enumerate(lengths) if n > level] for level in self._levels]
        rounds = [
            (end - start) * len(alive) for start, end, alive in zip(levels, levels[1:], self._alive, strict=False)
        ]
        self._starts = [0, *accumulate(rounds)][:-1]

    def locate(self, position: int) -> tuple[int, int]:
        phase = bisect_right(self._starts, position) - 1
        alive = self._alive[phase]
        rounds, nth = divmod(position - self._starts[phase], len(alive))
        return alive[nth], self._levels[phase] + rounds


def rank_slice(batch: int, world_size: int, rank: int) -> slice:
    """A rank's part of a global batch: contiguous, in rank order, sizes differing by at most one."""
    if not 0 <= rank < world_size <= batch:
        raise ValueError(f"rank {rank} of {world_size} workers over a global batch of {batch} scans")
    share, more = divmod(batch, world_size)
    start = rank * share + min(rank, more)
    return slice(start, start + share + (rank < more))


def position(step: int, batches_per_epoch: int) -> tuple[int, int]:
    """(epoch, global batch in it) of an outer step. RunFileError when an epoch has no whole batch."""
    if batches_per_epoch < 1:
        what = "the training split has fewer scans than one global batch"
        raise RunFileError(what, where="train.batch", do="lower train.batch, or pack more scans")
    return divmod(step, batches_per_epoch)
