"""The shard cache: proved before use, downloaded once a node, bounded, safe between processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import sha256_file
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.shard_cache import ShardCache
from tests.unit.streaming.archive import write_split

PLENTY = 10**9


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are downloaded from here on."""
    paths: list[str] = []
    download = ObjectStore.download

    def counted(store: ObjectStore, path: str, local: Path, *, size: int | None = None) -> str:
        paths.append(path)
        return download(store, path, local, size=size)

    monkeypatch.setattr(ObjectStore, "download", counted)
    return paths


def tars(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.tar")}


def test_downloaded_once_and_equal(s3: Callable[[], str], tmp_path: Path, downloads: list[str]) -> None:
    store = ObjectStore(s3())
    (shard,) = write_split(store, [3])
    for _ in range(2):
        cache = ShardCache(store, tmp_path / "cache", PLENTY)
        assert cache.path(shard).read_bytes() == store.read(shard.uri)
    assert downloads == [shard.uri]
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_cached_file_that_changed_is_fetched_again(store: ObjectStore, tmp_path: Path, downloads: list[str]) -> None:
    (shard,) = write_split(store, [3])
    cache = ShardCache(store, tmp_path / "cache", PLENTY)
    good = cache.path(shard).read_bytes()
    for bad in (good[:-512], bytes([good[0] ^ 1]) + good[1:], b""):
        cache.path(shard).write_bytes(bad)
        assert cache.path(shard).read_bytes() == good
    assert len(downloads) == 4


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-512], lambda b: b[:600] + bytes([b[600] ^ 1]) + b[601:], lambda _: b""]
)
def test_a_shard_that_is_damaged_in_storage_is_refused(
    store: ObjectStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (shard,) = write_split(store, [3])
    store.write(shard.uri, damage(store.read(shard.uri)))
    cache = ShardCache(store, tmp_path / "cache", PLENTY)
    with pytest.raises(IntegrityError) as caught:
        cache.path(shard)
    assert caught.value.where == store.uri(shard.uri)
    assert tars(tmp_path / "cache") == set()


def test_damage_on_the_way_is_healed(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = write_split(store, [3])
    download, tries = ObjectStore.download, []

    def damaging(store: ObjectStore, path: str, local: Path, *, size: int | None = None) -> str:
        digest = download(store, path, local, size=size)
        tries.append(path)
        if len(tries) == 1:
            local.write_bytes(b"x" * shard.size)
            return sha256_file(local)
        return digest

    monkeypatch.setattr(ObjectStore, "download", damaging)
    assert ShardCache(store, tmp_path / "cache", PLENTY).path(shard).stat().st_size == shard.size
    assert len(tries) == 2


def test_a_missing_shard_is_named(store: ObjectStore, tmp_path: Path) -> None:
    (shard,) = write_split(store, [3])
    store.delete(shard.uri)
    with pytest.raises(ObjectMissingError) as caught:
        ShardCache(store, tmp_path / "cache", PLENTY).path(shard)
    assert shard.uri in caught.value.where


def test_the_least_recently_used_goes_first(store: ObjectStore, tmp_path: Path) -> None:
    shards = write_split(store, [2, 2, 2, 2])
    cache = ShardCache(store, tmp_path / "cache", 3 * shards[0].size)
    for shard in (shards[0], shards[1], shards[2], shards[0], shards[3]):
        cache.path(shard)
        time.sleep(0.02)
    assert tars(tmp_path / "cache") == {shards[n].sha256 for n in (0, 2, 3)}


def test_the_shard_in_use_is_kept_however_small_the_cache(store: ObjectStore, tmp_path: Path) -> None:
    shards = write_split(store, [2, 2])
    cache = ShardCache(store, tmp_path / "cache", 1)
    for shard in shards:
        assert cache.path(shard).exists()
        assert tars(tmp_path / "cache") == {shard.sha256}


def test_an_open_shard_stays_readable_when_evicted(store: ObjectStore, tmp_path: Path) -> None:
    shards = write_split(store, [2, 2])
    cache = ShardCache(store, tmp_path / "cache", 1)
    with cache.open(shards[0]) as file:
        cache.path(shards[1])
        assert tars(tmp_path / "cache") == {shards[1].sha256}
        assert file.read() == store.read(shards[0].uri)


def test_downloads_of_killed_processes_go_away(store: ObjectStore, tmp_path: Path) -> None:
    (shard,) = write_split(store, [2])
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("old.part", ".tmp-old", "new.part"):
        (folder / name).write_bytes(b"half")
    for name in ("old.part", ".tmp-old"):
        os.utime(folder / name, (0, 0))
    ShardCache(store, folder, PLENTY).path(shard)
    assert {f.name for f in folder.iterdir() if f.suffix != ".lock"} == {"new.part", f"{shard.sha256}.tar"}


def test_an_index_is_kept_beside_its_shard(store: ObjectStore, tmp_path: Path) -> None:
    shards = write_split(store, [3, 2])
    cache = ShardCache(store, tmp_path / "cache", shards[0].size)
    cache.path(shards[0])
    first = cache.index(shards[0])
    whole = store.read(shards[0].index_uri)
    store.delete(shards[0].index_uri)
    assert cache.index(shards[0]).equals(first)
    kept = tmp_path / "cache" / f"{shards[0].sha256}.index"
    kept.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ObjectMissingError):  # a damaged copy is never used
        cache.index(shards[0])
    store.write(shards[0].index_uri, whole)
    assert cache.index(shards[0]).equals(first)
    assert kept.read_bytes() == whole
    cache.path(shards[1])  # evicts the other shard, and its index with it
    assert not kept.exists()


def _use(root: str, folder: str, max_bytes: int, shards: list[Shard]) -> int:
    cache, total = ShardCache(ObjectStore(root), Path(folder), max_bytes), 0
    for _ in range(5):
        for shard in shards:
            with cache.open(shard) as file:
                data = file.read()
            assert len(data) == shard.size
            total += len(data)
    return total


def test_processes_share_a_cache_that_is_too_small(store: ObjectStore, tmp_path: Path) -> None:
    shards = write_split(store, [2, 3, 4, 5])
    folder, limit = str(tmp_path / "cache"), 2 * shards[0].size
    orders = [shards, shards[::-1], shards[2:] + shards[:2]]
    with get_context("fork").Pool(3) as pool:
        totals = pool.starmap(_use, [(store.root, folder, limit, order) for order in orders])
    assert totals == [5 * sum(shard.size for shard in shards)] * 3
