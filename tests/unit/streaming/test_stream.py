"""What the training loop gets: the order's scans, as values, at any world size and from any step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medfuncta_dist.config.sections.train_section import Augment
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming import stream
from medfuncta_dist.streaming.augment import augmented
from medfuncta_dist.streaming.sample_order import EpochOrder, SampleId, rank_slice
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.stream import Batch, scan_batches, training_stream
from tests.unit.streaming.archive import SHAPE, key_of, scan_of, write_split

SAMPLES, BATCH = [4, 7, 2], 5


@pytest.fixture(scope="module")
def store(s3: Callable[[], str]) -> ObjectStore:
    return ObjectStore(s3())


@pytest.fixture(scope="module")
def shards(store: ObjectStore) -> list[Shard]:
    return write_split(store, SAMPLES)


@pytest.fixture
def reader(store: ObjectStore, shards: list[Shard], tmp_path: Path) -> SampleReader:
    return SampleReader(store, shards, ShardCache(store, tmp_path / "cache", 10**9))


def order(epoch: int) -> EpochOrder:
    return EpochOrder(SAMPLES, batch=BATCH, seed=1, epoch=epoch, digest="d", window=8)


def read(reader: SampleReader, start: int, stop: int, part: slice = slice(0, BATCH)) -> list[Batch]:
    return list(training_stream(reader, order, start, stop, part))


def test_batches_are_the_orders_scans_as_values(reader: SampleReader) -> None:
    batches = read(reader, 0, 5)
    assert [(b.step, b.epoch) for b in batches] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]
    for batch in batches:
        places = order(batch.epoch).batch(batch.step % 2)
        assert batch.keys == [key_of(*place) for place in places]
        assert batch.values.shape == (BATCH, 12, 2)
        assert batch.values.dtype == np.float32
        for values, place in zip(batch.values, places, strict=True):
            array = scan_of(*place).array
            # Point i of the grid is (i // 4, i % 4), channels last, in [0, 1].
            np.testing.assert_allclose(values[6], array[:, 1, 2] / 100, rtol=1e-6)
            np.testing.assert_allclose(values, array.reshape(2, -1).T / 100, rtol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_together_see_what_one_sees(reader: SampleReader, world: int) -> None:
    whole = read(reader, 0, 4)
    parts = [read(reader, 0, 4, rank_slice(BATCH, world, rank)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert [key for part in parts for key in part[step].keys] == batch.keys
        np.testing.assert_array_equal(np.concatenate([part[step].values for part in parts]), batch.values)


@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_resuming_goes_on_where_it_stopped(reader: SampleReader, start: int) -> None:
    whole, rest = read(reader, 0, 8)[start:], read(reader, start, 8)
    assert [b.step for b in rest] == list(range(start, 8))
    assert [b.keys for b in rest] == [b.keys for b in whole]


def test_a_rank_opens_only_its_own_scans_shards(
    store: ObjectStore, shards: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[str] = set()
    open_shard = ShardCache.open

    def watched(cache: ShardCache, shard: Shard) -> object:
        opened.add(shard.sha256)
        return open_shard(cache, shard)

    monkeypatch.setattr(ShardCache, "open", watched)
    reader, part = SampleReader(store, shards, ShardCache(store, tmp_path / "c", 10**9)), rank_slice(BATCH, 5, 2)
    batches = list(training_stream(reader, order, 0, 2, part))
    mine = {order(0).batch(g)[2].shard for g in range(2)}
    assert len(batches) == 2
    assert opened == {shards[n].sha256 for n in mine}


def test_an_error_reaches_the_loop_at_its_batch(store: ObjectStore, tmp_path: Path) -> None:
    shards = write_split(store, [2, 3])
    broken = [shards[0], Shard(**(vars(shards[1]) | {"sha256": "0" * 64}))]
    reader = SampleReader(store, broken, ShardCache(store, tmp_path / "cache", 10**9))
    with pytest.raises(IntegrityError):
        list(
            training_stream(
                reader, lambda e: EpochOrder([2, 3], batch=2, seed=0, epoch=e, digest="", window=4), 0, 4, slice(0, 2)
            )
        )


def test_a_split_without_a_whole_batch_is_refused(reader: SampleReader) -> None:
    def small(epoch: int) -> EpochOrder:
        return EpochOrder([2], batch=5, seed=0, epoch=epoch, digest="", window=4)

    with pytest.raises(RunFileError, match="fewer scans"):
        next(training_stream(reader, small, 0, 3, slice(0, 5)))


def test_leaving_early_ends_the_thread(reader: SampleReader) -> None:
    stream = training_stream(reader, order, 0, 10**6, slice(0, BATCH))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_named_scans_come_in_the_order_given(reader: SampleReader) -> None:
    places = [SampleId(2, 1), SampleId(0, 0), SampleId(1, 6), SampleId(0, 0)]
    samples = list(scan_batches(reader, places))
    assert [sample.key for sample in samples] == [key_of(*place) for place in places]
    np.testing.assert_array_equal(samples[2].array, scan_of(1, 6).array)


def test_shards_of_the_scans_to_come_are_fetched_ahead(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_split(store, [40, 40, 40])
    monkeypatch.setattr(stream, "READ_AHEAD", 1)
    one_stream = [SampleId(shard, row) for shard in range(3) for row in range(40)]
    monkeypatch.setattr(EpochOrder, "batch", lambda self, g: one_stream[g * 5 : g * 5 + 5])
    monkeypatch.setattr(stream, "FETCH_AHEAD", 50)

    def whole(epoch: int) -> EpochOrder:
        return EpochOrder([40, 40, 40], batch=5, seed=0, epoch=epoch, digest="", window=4)

    folder = tmp_path / "cache"
    batches = training_stream(SampleReader(store, shards, ShardCache(store, folder, 10**9)), whole, 0, 24, slice(0, 5))
    next(batches)
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.tar"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    # Two or three batches were read, all of the first shard; 50 scans on lies the second, not the third.
    assert {file.stem for file in folder.glob("*.tar")} == {shard.sha256 for shard in shards[:2]}
    assert sum(1 for _ in batches) == 23


def test_a_changed_scan_depends_on_its_key_and_epoch_only(reader: SampleReader) -> None:
    whole, plain = changed(reader, 0, 8), read(reader, 0, 8)
    for batch, before in zip(whole, plain, strict=True):
        assert batch.keys == before.keys
        for key, after, values in zip(batch.keys, batch.values, before.values, strict=True):
            expected = augmented_scan(values.T.reshape(2, *SHAPE), batch.epoch, key)
            np.testing.assert_array_equal(after, expected.reshape(2, -1).T)
            assert not np.array_equal(after, values)
    for start, world in ((0, 2), (1, 3), (3, 1), (5, 5)):
        parts = [changed(reader, start, 8, rank_slice(BATCH, world, rank)) for rank in range(world)]
        for step, batch in enumerate(whole[start:]):
            together = np.concatenate([part[step].values for part in parts])
            assert together.tobytes() == batch.values.tobytes()


def changed(reader: SampleReader, start: int, stop: int, part: slice = slice(0, BATCH)) -> list[Batch]:
    return list(training_stream(reader, order, start, stop, part, augmented_scan))


def augmented_scan(values: npt.NDArray[np.float32], epoch: int, key: str) -> npt.NDArray[np.float32]:
    settings = Augment(flip=[0, 1], affine=0.1, shift=0.1, gain=0.1, offset=0.05)
    return augmented(values, settings, seed=4, epoch=epoch, key=key)
