"""Single samples, each verified by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming import sample_reader
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from tests.unit.streaming.archive import key_of, scan_of, write_split

SAMPLES = (3, 1, 4)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


@pytest.fixture
def shards(store: ObjectStore) -> list[Shard]:
    return write_split(store, SAMPLES)


@pytest.fixture
def cache(store: ObjectStore, tmp_path: Path) -> ShardCache:
    return ShardCache(store, tmp_path / "cache", 10**9)


PLACES = [SampleId(shard, row) for shard, samples in enumerate(SAMPLES) for row in range(samples)]


def test_every_sample_is_what_was_packed(store: ObjectStore, shards: list[Shard], cache: ShardCache) -> None:
    reader = SampleReader(store, shards, cache)
    for place in reversed(PLACES):
        members = reader.read(place)
        assert members["__key__"] == key_of(*place) == reader.keys(place.shard)[place.row]
        assert members["__url__"] == shards[place.shard].uri
        sample = decode(members["__key__"], members["npy"], members["json"])
        np.testing.assert_array_equal(sample.array, scan_of(*place).array)


@pytest.mark.parametrize("member", ["npy", "json"])
def test_damage_after_the_shard_was_proved_is_noticed(
    store: ObjectStore, shards: list[Shard], cache: ShardCache, member: str
) -> None:
    reader = SampleReader(store, shards, cache)
    data = reader.read(SampleId(2, 1))[member]  # type: ignore[literal-required]
    file = cache.path(shards[2])
    whole = bytearray(file.read_bytes())
    at = bytes(whole).index(data)
    whole[at + len(data) // 2] ^= 1
    with file.open("r+b") as tar:  # in place: the reader holds this very file open
        tar.write(whole)
    with pytest.raises(IntegrityError, match="CRC-32C") as caught:
        reader.read(SampleId(2, 1))
    assert shards[2].sha256 in caught.value.where
    assert key_of(2, 1) in caught.value.where
    assert reader.read(SampleId(2, 0))["__key__"] == key_of(2, 0)


def test_a_tar_cut_behind_its_back_is_noticed(store: ObjectStore, shards: list[Shard], cache: ShardCache) -> None:
    reader = SampleReader(store, shards, cache)
    reader.read(SampleId(0, 0))
    with cache.path(shards[0]).open("r+b") as tar:
        tar.truncate(1024)
    with pytest.raises(IntegrityError):
        reader.read(SampleId(0, 2))


def test_a_damaged_index_is_refused(store: ObjectStore, shards: list[Shard], cache: ShardCache) -> None:
    data = bytearray(store.read(shards[0].index_uri))
    data[len(data) // 2] ^= 1
    store.write(shards[0].index_uri, bytes(data))
    reader = SampleReader(store, shards, cache)
    with pytest.raises(IntegrityError) as caught:
        reader.read(SampleId(0, 0))
    assert caught.value.where == store.uri(shards[0].index_uri)
    assert reader.read(SampleId(1, 0))["__key__"] == key_of(1, 0)


def test_few_files_are_open_at_once(
    store: ObjectStore, shards: list[Shard], cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_reader, "OPEN_SHARDS", 2)
    reader = SampleReader(store, shards, cache)
    for place in PLACES + PLACES[::-1]:
        assert reader.read(place)["__key__"] == key_of(*place)
        assert len(reader._open) <= 2
    files = [shard.file for shard in reader._open.values()]
    reader.close()
    assert all(file.closed for file in files)
    assert reader.read(PLACES[0])["__key__"] == key_of(*PLACES[0])


def test_threads_may_share_a_reader(store: ObjectStore, shards: list[Shard], cache: ShardCache) -> None:
    reader = SampleReader(store, shards, cache)
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda place: reader.read(place)["__key__"], PLACES * 20))
    assert keys == [key_of(*place) for place in PLACES * 20]


def test_an_expected_shard_is_there_before_it_is_read(
    store: ObjectStore, shards: list[Shard], cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = SampleReader(store, shards, cache)
    reader.expect(2)
    reader._expected[2].result(timeout=30)
    for request in ("read", "download"):
        monkeypatch.setattr(ObjectStore, request, None)  # storage is out of reach from here on
    assert reader.read(SampleId(2, 1))["__key__"] == key_of(2, 1)


def test_what_went_wrong_ahead_is_raised_by_the_read_that_needs_it(
    store: ObjectStore, shards: list[Shard], cache: ShardCache
) -> None:
    whole = store.read(shards[0].uri)
    store.write(shards[0].uri, whole[:-512])
    reader = SampleReader(store, shards, cache)
    reader.expect(0)
    reader.expect(2)
    assert reader.read(SampleId(2, 0))["__key__"] == key_of(2, 0)
    with pytest.raises(IntegrityError):
        reader.read(SampleId(0, 0))
    store.write(shards[0].uri, whole)
    assert reader.read(SampleId(0, 0))["__key__"] == key_of(0, 0)


def test_expecting_ends_with_the_reader(store: ObjectStore, shards: list[Shard], cache: ShardCache) -> None:
    reader = SampleReader(store, shards, cache)
    for shard in range(len(shards)):
        reader.expect(shard)
    reader.close()
    assert not reader._expected
    assert reader.read(PLACES[0])["__key__"] == key_of(*PLACES[0])
