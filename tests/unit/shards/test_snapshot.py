from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medfuncta_dist.errors import (
    FormatVersionError,
    IntegrityError,
    LeaseLostError,
    LostObjectError,
    RunFileError,
    StageOrderError,
)
from medfuncta_dist.shards.shard_index import IndexRow, index_bytes, index_table
from medfuncta_dist.shards.snapshot import (
    Snapshot,
    commit_snapshot,
    commits_prefix,
    load_snapshot,
    newest_snapshot,
    read_index,
    snapshot_path,
    split_digest,
)
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from tests.unit.shards.samples import key_of, shard

FIRST = Snapshot(
    name="d",
    parent=None,
    contract={"shape": [28, 28], "reader": None},
    splits={"train": (shard(0), shard(1)), "test": (shard(2, 3),)},
    quarantined=({"key": key_of(9), "reason": "some values are not finite", "kind": "scan"},),
    counts={"scans": 24, "packed": 23, "quarantined": 1},
    packs=(key_of("pack"),),
    generation=1,
)
SECOND = replace(
    FIRST, parent=FIRST.digest, generation=2, splits={**FIRST.splits, "train": (shard(0), shard(1), shard(3))}
)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def test_what_is_written_is_read() -> None:
    again = Snapshot.from_bytes(FIRST.to_bytes())
    assert again.digest == FIRST.digest
    assert again.splits == {name: list(shards) for name, shards in FIRST.splits.items()}
    assert again.to_bytes() == FIRST.to_bytes()
    assert again.samples == 23


def test_everything_it_says_is_in_the_digest() -> None:
    others = [
        replace(FIRST, name="e"),
        replace(FIRST, parent=key_of(1)),
        replace(FIRST, contract={"shape": [28, 29], "reader": None}),
        replace(FIRST, quarantined=()),
        replace(FIRST, counts={}),
        replace(FIRST, packs=()),
        replace(FIRST, generation=2),
        SECOND,
    ]
    assert len({s.digest for s in [FIRST, *others]}) == len(others) + 1


def test_a_changed_byte_is_noticed() -> None:
    data = FIRST.to_bytes()
    assert data.count(b'"samples":3') == 1
    with pytest.raises(IntegrityError, match="damaged") as caught:
        Snapshot.from_bytes(data.replace(b'"samples":3', b'"samples":4'), where="s3://b/s.json")
    assert "s3://b/s.json" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"format_version": 1}', b'{"format_version":1,"snapshot":{}}'])
def test_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Snapshot.from_bytes(data)


def test_an_unknown_format_version_is_refused_by_name() -> None:
    file = json.loads(FIRST.to_bytes()) | {"format_version": 7}
    with pytest.raises(FormatVersionError, match="snapshot format_version 7"):
        Snapshot.from_bytes(json.dumps(file).encode())


def test_the_newest_committed_snapshot_is_loaded(store: ObjectStore) -> None:
    commit_snapshot(store, SECOND, fence=ALONE)
    commit_snapshot(store, FIRST, fence=ALONE)
    assert load_snapshot(store, "d", None).digest == SECOND.digest
    assert load_snapshot(store, "d", FIRST.digest).digest == FIRST.digest


def test_without_a_commit_record_it_does_not_exist(store: ObjectStore) -> None:
    assert newest_snapshot(store, "d") is None
    store.write(snapshot_path("d", FIRST.digest), FIRST.to_bytes())
    with pytest.raises(StageOrderError, match="no committed snapshot"):
        load_snapshot(store, "d", None)
    assert newest_snapshot(store, "d") is None, "packing again finishes it"
    with pytest.raises(RunFileError, match="does not exist in data set e"):
        load_snapshot(store, "e", FIRST.digest)


def test_a_snapshot_that_others_came_before_or_that_is_named_has_lost_its_record(store: ObjectStore) -> None:
    second = replace(FIRST, parent=FIRST.digest, generation=2)
    for snapshot in (FIRST, second):
        store.write(snapshot_path("d", snapshot.digest), snapshot.to_bytes())
    for digest in (None, FIRST.digest, second.digest):
        with pytest.raises(LostObjectError, match="commit record"):
            load_snapshot(store, "d", digest)
    with pytest.raises(LostObjectError):
        newest_snapshot(store, "d")
    commit_snapshot(store, FIRST, ALONE)
    assert load_snapshot(store, "d", None).digest == FIRST.digest, (
        "the second may be one that a driver was about to commit"
    )


def test_a_lease_that_is_lost_while_a_snapshot_is_written_lets_no_record_through(store: ObjectStore) -> None:
    """A large one takes a while to write, and its driver may be stopped meanwhile."""
    claim = take(store, "lease.json", 60, print)

    class TakenOver(ObjectStore):
        def write(self, path: str, data: bytes) -> None:
            super().write(path, data)
            if path == snapshot_path("d", FIRST.digest):
                claim.give_back()

    with pytest.raises(LeaseLostError):
        commit_snapshot(TakenOver(store.root), FIRST, claim.fence)
    assert newest_snapshot(store, "d") is None


def test_another_snapshot_under_its_name_is_noticed(store: ObjectStore) -> None:
    commit_snapshot(store, FIRST, fence=ALONE)
    store.write(snapshot_path("d", FIRST.digest), SECOND.to_bytes())
    with pytest.raises(IntegrityError, match="not have the digest in its name"):
        load_snapshot(store, "d", None)


def test_a_damaged_commit_record_is_not_passed_over(store: ObjectStore) -> None:
    commit_snapshot(store, FIRST, fence=ALONE)
    commit_snapshot(store, SECOND, fence=ALONE)
    newest = store.list(commits_prefix("d"))[-1].path
    store.write(newest, store.read(newest).replace(b'"generation":2', b'"generation":0'))
    with pytest.raises(IntegrityError):
        load_snapshot(store, "d", None)


def test_committing_twice_changes_nothing(store: ObjectStore) -> None:
    commit_snapshot(store, FIRST, fence=ALONE)
    before = [(o, store.read(o.path)) for o in store.list("")]
    commit_snapshot(store, FIRST, fence=ALONE)
    assert [(o, store.read(o.path)) for o in store.list("")] == before


def test_a_split_has_its_own_digest() -> None:
    assert split_digest(SECOND, "test") == split_digest(FIRST, "test")
    assert split_digest(SECOND, "train") != split_digest(FIRST, "train")
    with pytest.raises(RunFileError, match="no split 'val'") as caught:
        split_digest(FIRST, "val")
    assert "test, train" in caught.value.do


def test_an_index_is_read_only_if_it_is_the_one(store: ObjectStore) -> None:
    data = index_bytes(index_table([IndexRow(key_of(1), key_of(2), "", 512, 100, 1, 1536, 50, 2)]))
    described = replace(shard(0, samples=1), index_size=len(data), index_sha256=sha256_bytes(data))
    store.write(described.index_uri, data)
    assert read_index(store, described)["npy_length"].to_pylist() == [100]
    for wrong in (replace(described, index_size=len(data) + 1), replace(described, index_sha256=key_of(0))):
        with pytest.raises(IntegrityError, match="not match the snapshot"):
            read_index(store, wrong)
    with pytest.raises(IntegrityError, match="at most 1 were expected"):
        read_index(store, replace(described, index_size=1))


def test_ten_thousand_shards_are_cheap(store: ObjectStore) -> None:
    shards = [shard(i) for i in range(10_000)]
    start = time.process_time()
    commit_snapshot(store, replace(FIRST, splits={"train": shards}), fence=ALONE)
    assert load_snapshot(store, "d", None).samples == 100_000
    assert time.process_time() - start < 10  # 0.4 s on one idle slow core; anything quadratic takes minutes
