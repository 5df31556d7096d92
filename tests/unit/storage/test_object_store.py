"""One meaning for local folders and S3: every test below runs on both, S3 being a real server."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, RunFileError, StorageError
from medfuncta_dist.storage import local_objects
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore, normal_root


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return ObjectStore(str(tmp_path / "store"), deadline_s=20)
    make_root: Callable[[], str] = request.getfixturevalue("s3")
    return ObjectStore(make_root(), deadline_s=20)


def test_bytes_come_back(store: ObjectStore) -> None:
    for path, data in {"a/b.bin": b"hello", "empty": b"", "a/ü #%+&.bin": os.urandom(1000)}.items():
        store.write(path, data)
        assert store.read(path) == data
        assert store.size(path) == len(data)
        assert store.exists(path)


def test_replacing_and_deleting(store: ObjectStore) -> None:
    store.write("a", b"old, and longer")
    store.write("a", b"new")
    assert store.read("a") == b"new"
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")
    assert store.list("") == []


def test_ranges(store: ObjectStore) -> None:
    store.write("a", b"0123456789")
    assert store.read_range("a", 3, 4) == b"3456"
    assert store.read_range("a", 0, 10) == b"0123456789"
    assert store.read_range("a", 5, 0) == b""
    for start, length in ((8, 3), (10, 1), (100, 5)):
        with pytest.raises(IntegrityError) as caught:
            store.read_range("a", start, length)
        assert "verify" in caught.value.do


def test_missing_objects_are_named(store: ObjectStore, tmp_path: Path) -> None:
    store.write("folder/a", b"x")
    requests: list[Callable[[str], object]] = [
        store.read,
        store.size,
        lambda path: store.read_range(path, 0, 1),
        lambda path: store.download(path, tmp_path / "copy"),
    ]
    for path in ("nothing", "folder", "folder/a/b"):
        for request in requests:
            with pytest.raises(ObjectMissingError) as caught:
                request(path)
            assert store.uri(path) in caught.value.where
            assert "1 attempt in" in caught.value.where
        assert not store.exists(path)
    assert not (tmp_path / "copy").exists()


def test_listing_is_recursive_sorted_and_by_folder(store: ObjectStore) -> None:
    for path in ("b/2", "b/1", "a", "b/c/d/3", "bb/4"):
        store.write(path, path.encode())
    assert store.list("") == [ObjectInfo(p, len(p)) for p in ("a", "b/1", "b/2", "b/c/d/3", "bb/4")]
    assert [o.path for o in store.list("b")] == ["b/1", "b/2", "b/c/d/3"]
    assert store.list("b/") == store.list("b")
    assert store.list("nothing") == store.list("a") == []
    assert (store.folders("b"), store.folders("b/c/"), store.folders("nothing")) == (("c",), ("d",), ())


def test_listing_goes_on_past_a_page_of_a_thousand(s3: Callable[[], str]) -> None:
    store = ObjectStore(s3())
    names = [f"many/{n:04}" for n in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.write(name, b""), names))
    assert [o.path for o in store.list("many")] == names


def test_files_up_and_down(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    store.upload(tmp_path / "up", "x/up")
    store.download("x/up", tmp_path / "new folder" / "down")
    assert (tmp_path / "new folder" / "down").read_bytes() == data
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["down"]


def test_an_object_in_several_parts(s3: Callable[[], str], tmp_path: Path) -> None:
    store, data = ObjectStore(s3()), os.urandom(105 * 2**20)  # above twice the part size, so it goes up in three
    (tmp_path / "big").write_bytes(data)
    store.upload(tmp_path / "big", "big")
    store.download("big", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data


def test_a_limit_refuses_before_reading(store: ObjectStore) -> None:
    store.write("a", b"12345")
    assert store.read("a", limit=5) == b"12345"
    with pytest.raises(IntegrityError, match="at most 4") as caught:
        store.read("a", limit=4)
    assert caught.value.where == store.uri("a")


def test_readers_never_see_half_an_object(store: ObjectStore) -> None:
    versions = [bytes([n]) * 200_000 for n in range(8)]
    store.write("a", versions[0])
    done, seen = threading.Event(), []

    def watch() -> None:
        while not done.is_set():
            seen.append(store.read("a"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for version in versions:
        store.write("a", version)
    done.set()
    watcher.join()
    assert seen
    assert all(data in versions for data in seen)


def test_a_write_that_fails_leaves_the_old_bytes(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "store"))
    store.write("a", b"old")
    with pytest.raises(TypeError):
        store._backend.write("a", "not bytes", 1.0)  # type: ignore[arg-type]
    assert store.read("a") == b"old"
    assert store.list("") == [ObjectInfo("a", 3)]
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["a"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "store"))
    store.write("a/x", b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y").write_bytes(b"2")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "a" / "loop").symlink_to(tmp_path / "store")
    assert [o.path for o in store.list("")] == ["a/x", "link/y"]


def test_what_is_removed_while_it_is_listed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As retention does while others look."""
    store, found = ObjectStore(str(tmp_path)), local_objects._files
    for name in ("a", "b", "c"):
        store.write(name, b"1")

    def removed_once_seen(folder: Path) -> Iterator[Path]:
        for file in found(folder):
            if file.name == "b":
                file.unlink()
            yield file

    monkeypatch.setattr(local_objects, "_files", removed_once_seen)
    assert [o.path for o in store.list("")] == ["a", "c"]


def _read_in_child(store: ObjectStore) -> bytes:
    return store.read("a")


def test_other_processes(store: ObjectStore) -> None:
    store.write("a", b"here")
    # Forked, since that is the harder case: a child inherits the parent's connections without their event loop.
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(_read_in_child, (store,)) == b"here"
    assert pickle.loads(pickle.dumps(store)).read("a") == b"here"
    assert b"SECRET" not in pickle.dumps(store).upper()


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.c"]), min_size=1, max_size=4).map("/".join))
def test_no_path_leads_out_of_the_root(path: str) -> None:
    store = ObjectStore("/data/root")
    safe = bool(path) and not {"", ".", ".."} & set(path.split("/"))
    if safe:
        assert store.uri(path) == f"/data/root/{path}"
    else:
        with pytest.raises(StorageError):
            store.uri(path)


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normal_root("s3://bucket/a/b///") == "s3://bucket/a/b"
    assert normal_root("s3://bucket") == "s3://bucket"
    assert normal_root("data") == str(tmp_path / "data")
    assert normal_root("file:///x/y/") == "/x/y"
    for bad in ("s3://", "s3://B", "s3:///x", "s3://bucket/../x", "http://x/y", "pipe:cat x", "gs://b/x", ""):
        with pytest.raises(RunFileError):
            normal_root(bad)
