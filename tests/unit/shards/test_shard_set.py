from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.shards.shard_set import ShardSet
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.shards.samples import key_of, uploads


def fill(
    store: ObjectStore, folder: Path, n: int, *, scans: int = 100, megabytes: int = 100, size: int = 100
) -> list[Shard]:
    folder.mkdir(exist_ok=True)
    with ShardSet(store, "d", folder, scans, megabytes) as shards:
        for i in range(n):
            shards.add("train", key_of(i), bytes([i % 256]) * size, b"{}", key_of("s"), f"row/{i}")
            assert len(list(folder.iterdir())) <= 1
        done = shards.finish()
    assert list(folder.iterdir()) == []
    return list(done.get("train", ()))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


def test_shards_are_bounded_in_scans(store: ObjectStore, tmp_path: Path) -> None:
    assert [s.samples for s in fill(store, tmp_path / "t", 10, scans=4)] == [4, 4, 2]


def test_shards_are_bounded_in_bytes(store: ObjectStore, tmp_path: Path) -> None:
    shards = fill(store, tmp_path / "t", 7, megabytes=1, size=300_000)
    assert [s.samples for s in shards] == [3, 3, 1]
    assert all(s.size <= 2**20 for s in shards)


def test_a_sample_larger_than_the_bound_gets_a_shard_of_its_own(store: ObjectStore, tmp_path: Path) -> None:
    assert [s.samples for s in fill(store, tmp_path / "t", 3, megabytes=1, size=2**20 + 1)] == [1, 1, 1]


def test_nothing_added_is_no_shard(store: ObjectStore, tmp_path: Path) -> None:
    assert fill(store, tmp_path / "t", 0) == []


def test_objects_are_what_the_record_says(store: ObjectStore, tmp_path: Path) -> None:
    for shard in fill(store, tmp_path / "t", 5, scans=3):
        data = store.read(shard.uri)
        assert (len(data), sha256_bytes(data)) == (shard.size, shard.sha256)
        assert shard.uri == f"datasets/d/shards/{shard.sha256}.tar"
        assert shard.index_uri == f"datasets/d/indexes/{shard.index_sha256}.parquet"
        assert read_index(store, shard).num_rows == shard.samples


def test_each_split_has_its_own_shards(store: ObjectStore, tmp_path: Path) -> None:
    with ShardSet(store, "d", tmp_path, 2, 100) as shards:
        for i in range(5):
            shards.add("test" if i % 2 else "train", key_of(i), b"npy", b"{}", "s", "")
        done = shards.finish()
    assert {split: [s.samples for s in made] for split, made in done.items()} == {"test": [2], "train": [2, 1]}


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_there_is_not_uploaded_again(
    remote: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root: Callable[[], str] = request.getfixturevalue("s3") if remote else lambda: str(tmp_path / "store")
    store = ObjectStore(root())
    first = fill(store, tmp_path / "t", 10, scans=4)
    calls = uploads(monkeypatch)
    assert fill(store, tmp_path / "t", 10, scans=4) == first
    assert calls == []
    store.write(first[1].uri, b"cut short")
    fill(store, tmp_path / "t", 10, scans=4)
    assert calls == [first[1].uri]


def test_bytes_that_do_not_arrive_are_noticed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectStore, "upload", lambda self, local, path: self.write(path, local.read_bytes()[:-1]))
    with pytest.raises(IntegrityError, match="bytes were uploaded") as caught:
        fill(store, tmp_path / "t", 2)
    assert "pack stage again" in caught.value.do
