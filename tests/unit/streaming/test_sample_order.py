"""The order's promises, over all kinds of splits: fewer shards than scans in a batch, uneven and empty shards."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.random_numbers import permutation
from medfuncta_dist.streaming.sample_order import EpochOrder, SampleId, position, rank_slice
from medfuncta_dist.streaming.sample_reader import OPEN_SHARDS


@dataclass(frozen=True)
class Case:
    """A split and how it is read."""

    shards: list[int]
    batch: int
    window: int
    seed: int = 0
    epoch: int = 0
    digest: str = "d" * 64

    def order(self, **changes: object) -> EpochOrder:
        settings = {"batch": self.batch, "seed": self.seed, "epoch": self.epoch, "digest": self.digest}
        return EpochOrder(self.shards, **(settings | {"window": self.window} | changes))  # type: ignore[arg-type]

    def scans(self, **changes: object) -> list[SampleId]:
        order = self.order(**changes)
        return [sample for g in range(order.batches) for sample in order.batch(g)]


CASES = st.builds(
    Case,
    shards=st.lists(st.integers(0, 40), max_size=12),
    batch=st.integers(1, 30),
    window=st.integers(1, 60),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)


@given(CASES)
def test_an_epoch_visits_each_scan_at_most_once_and_counts_the_rest(case: Case) -> None:
    order, scans = case.order(), case.scans()
    assert len(set(scans)) == len(scans) == order.batches * case.batch
    assert len(scans) + order.dropped == sum(case.shards)
    assert 0 <= order.dropped < case.batch
    assert all(0 <= shard < len(case.shards) and 0 <= row < case.shards[shard] for shard, row in scans)


@given(CASES, st.randoms(use_true_random=False))
def test_batches_are_the_same_in_whatever_order_they_are_asked_for(case: Case, random: object) -> None:
    order, again = case.order(), case.order()
    numbers = list(range(order.batches))
    random.shuffle(numbers)  # type: ignore[attr-defined]
    asked = {g: again.batch(g) for g in numbers}
    assert all(order.batch(g) == asked[g] for g in range(order.batches))


@given(CASES)
def test_with_a_batch_that_divides_the_split_nothing_is_dropped(case: Case) -> None:
    scans = case.scans(batch=1)
    everything = {SampleId(s, r) for s, samples in enumerate(case.shards) for r in range(samples)}
    assert set(scans) == everything


@given(st.integers(1, 200).flatmap(lambda b: st.tuples(st.just(b), st.integers(1, b))))
def test_ranks_share_a_batch_without_gaps(sizes: tuple[int, int]) -> None:
    batch, world = sizes
    parts = [range(batch)[rank_slice(batch, world, rank)] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(batch))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


@given(CASES, st.integers(1, 8), st.integers(1, 8))
def test_a_global_batch_is_the_same_at_any_world_size(case: Case, one: int, two: int) -> None:
    def joined(world: int) -> list[list[SampleId]]:
        # Each rank builds its own order, as the processes of a cluster do.
        orders = [case.order() for _ in range(world)]
        parts = [rank_slice(case.batch, world, rank) for rank in range(world)]
        pairs = list(zip(orders, parts, strict=True))
        return [[s for o, part in pairs for s in o.batch(g)[part]] for g in range(orders[0].batches)]

    assert joined(min(one, case.batch)) == joined(min(two, case.batch))


def test_bad_ranks_are_refused() -> None:
    for batch, world, rank in ((4, 5, 0), (4, 2, 2), (4, 2, -1), (4, 0, 0)):
        with pytest.raises(ValueError, match="workers"):
            rank_slice(batch, world, rank)


@pytest.mark.parametrize("shards", [[10, 10], [1, 30, 5], [0, 7, 0, 0, 50], [64]])
def test_fewer_shards_than_scans_in_a_batch(shards: list[int]) -> None:
    case = Case(shards, batch=6, window=16)
    assert len(set(case.scans())) == sum(shards) // 6 * 6
    # While all streams last, a batch takes from them in turn, as evenly as it goes.
    alive = sum(1 for n in shards if n)
    taken = Counter(sample.shard for sample in case.order().batch(0))
    if min(n for n in shards if n) >= 6:
        assert max(taken.values()) - min(taken.values()) <= 1
        assert len(taken) == alive


def test_a_batch_takes_one_scan_from_each_stream() -> None:
    case = Case([20] * 40, batch=8, window=5)
    order = case.order()
    for g in range(order.batches):
        assert len({sample.shard for sample in order.batch(g)}) == 8


@given(CASES)
def test_shuffling_stays_within_the_window(case: Case) -> None:
    order = case.order()
    for stream, ends in enumerate(order._ends):
        length = int(ends[-1])
        places = [order._shuffled(stream, turn) for turn in range(length)]
        assert sorted(places) == list(range(length))
        assert all(abs(place - turn) < case.window for turn, place in enumerate(places))


def test_a_stream_has_few_shards_in_hand() -> None:
    case = Case([50] * 40, batch=4, window=25)
    order = case.order()
    rows = [[order.batch(g)[stream] for g in range(order.batches)] for stream in range(4)]
    for stream in rows:
        for start in range(0, len(stream), 25):
            assert len({s.shard for s in stream[start : start + 25]}) <= 3
        # Each shard is opened, read to its end and left: it does not come back.
        last_seen = {s.shard: i for i, s in enumerate(stream)}
        first_seen = {s.shard: i for i, s in reversed(list(enumerate(stream)))}
        assert all(last_seen[shard] - first_seen[shard] < 50 + 2 * 25 for shard in last_seen)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"digest": "e" * 64}])
def test_seed_epoch_and_digest_each_change_the_order(change: dict[str, object]) -> None:
    case = Case([30, 20, 25, 9], batch=5, window=12)
    assert case.scans(**change) != case.scans()
    assert set(case.scans(batch=1, **change)) == set(case.scans(batch=1))


def test_each_scan_takes_each_place_about_equally_often() -> None:
    firsts = Counter(Case([8, 8], batch=4, window=16).order(epoch=epoch).batch(0)[0] for epoch in range(800))
    assert len(firsts) == 16
    assert all(20 < n < 90 for n in firsts.values())  # 50 expected, standard deviation 7


def test_the_order_is_the_same_for_ever() -> None:
    # Written down once: a run that resumes under another release of this package or of NumPy sees the same scans.
    order = Case([5, 9, 4, 12], batch=4, window=6, seed=3, epoch=2).order()
    assert order.batch(3) == [(1, 1), (3, 1), (0, 1), (2, 3)]
    assert permutation(8, "a", 1).tolist() == [3, 5, 6, 1, 0, 2, 4, 7]


@given(st.integers(0, 10**7), st.integers(1, 10**5))
def test_positions_count_on(step: int, batches: int) -> None:
    epoch, g = position(step, batches)
    assert 0 <= g < batches
    assert epoch * batches + g == step


def test_what_can_not_be_ordered_is_refused() -> None:
    with pytest.raises(RunFileError, match="fewer scans"):
        position(0, 0)
    order = Case([5], batch=2, window=3).order()
    for g in (-1, 2):
        with pytest.raises(IndexError):
            order.batch(g)
    for batch, window in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            EpochOrder([5], batch=batch, seed=0, epoch=0, digest="", window=window)


def opened(order: EpochOrder, batches: int, kept: int = OPEN_SHARDS) -> tuple[int, int]:
    """How often a reader that keeps so many shards open opens one, and how many shards the batches have."""
    keep: OrderedDict[int, None] = OrderedDict()
    openings, seen = 0, set()
    for g in range(batches):
        for shard, _ in order.batch(g):
            openings += shard not in keep
            keep[shard] = None
            keep.move_to_end(shard)
            if len(keep) > kept:
                keep.popitem(last=False)
            seen.add(shard)
    return openings, len(seen)


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("scans", [[1] * 4000, [5] * 800, [1, 1, 40] * 400], ids=["one", "five", "uneven"])
def test_where_scans_are_visited_many_times_a_shard_is_hardly_ever_opened_twice(batch: int, scans: list[int]) -> None:
    order = EpochOrder(
        [64 * n for n in scans],
        batch=batch,
        seed=0,
        epoch=0,
        digest="d",
        window=4096,
        shards_at_once=OPEN_SHARDS // 2,
    )
    openings, shards = opened(order, 25_600 // batch)
    assert openings <= 1.5 * shards
    several = [{shard for shard, _ in order.batch(g)} for g in range(8)]
    assert sum(map(len, several)) >= 8 * min(batch, 32) // 2, "a batch is of many scans"


@given(CASES, st.integers(2, 12))
def test_with_a_bound_an_epoch_still_visits_each_scan_once(case: Case, bound: int) -> None:
    scans = case.scans(batch=case.batch, shards_at_once=bound)
    assert len(set(scans)) == len(scans) == len(case.scans())
    everything = {SampleId(s, r) for s, samples in enumerate(case.shards) for r in range(samples)}
    assert set(case.scans(batch=1, shards_at_once=bound)) == everything


def test_a_large_split_is_cheap() -> None:
    order = EpochOrder([1024] * 20_000, batch=64, seed=0, epoch=0, digest="d", window=4096)
    ids = [order.batch(g) for g in (order.batches - 1, 0, order.batches // 2)]
    assert all(len(set(batch)) == 64 for batch in ids)
    assert order.batches == 320_000
    assert isinstance(order.batch(5)[0].row, int)
    assert not isinstance(order.batch(5)[0].row, np.generic)
