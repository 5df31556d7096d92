from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.packing import mapping_update
from medfuncta_dist.packing.mapping_update import update_mapping
from medfuncta_dist.packing.pack_ledger import total
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.scans.private.private_mapping import MAPPING_FILE
from medfuncta_dist.shards.shard_set import ShardSet
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from tests.mapping_rows import read_mapping
from tests.unit.shards.samples import key_of

URIS = {key_of(f"source {n}"): f"/archive/{n}.csv" for n in range(4)}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


def record(store: ObjectStore, folder: Path, n: int) -> PackRecord:
    """One source with two scans packed and one quarantined."""
    source = key_of(f"source {n}")
    with ShardSet(store, "d", folder, 10, 10) as shards:
        for i in range(2):
            shards.add("train", key_of(f"{n} {i}"), b"npy", b"{}", source, f"row/{i}")
        splits = shards.finish()
    bad = {"kind": "scan", "key": key_of(f"{n} 2"), "source": source, "item": "row/2", "reason": "not finite"}
    return PackRecord(key_of(n), [source], splits, (bad,), total([]) | {"packed": 2, "quarantined": 1, "scans": 3})


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Shard]:
    read: list[Shard] = []

    def counting(store: ObjectStore, shard: Shard) -> object:
        read.append(shard)
        return read_index(store, shard)

    monkeypatch.setattr(mapping_update, "read_index", counting)
    return read


def test_every_key_leads_back_to_its_file(store: ObjectStore, tmp_path: Path) -> None:
    records = [record(store, tmp_path, n) for n in range(2)]
    update_mapping(tmp_path / "private", store, records, records, URIS)
    rows = {row.key: (row.uri, row.item) for row in read_mapping(tmp_path / "private")}
    assert rows == {key_of(f"{n} {i}"): (f"/archive/{n}.csv", f"row/{i}") for n in range(2) for i in range(3)}


def test_only_new_shards_are_read(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = record(store, tmp_path, 0), record(store, tmp_path, 1)
    update_mapping(tmp_path / "private", store, [old], [old], URIS)
    read = counted(monkeypatch)
    update_mapping(tmp_path / "private", store, [old, new], [new], URIS)
    assert read == new.shards
    assert len(read_mapping(tmp_path / "private")) == 6
    update_mapping(tmp_path / "private", store, [old, new], [], URIS)
    assert read == new.shards


def test_a_lost_mapping_is_made_anew(store: ObjectStore, tmp_path: Path) -> None:
    records = [record(store, tmp_path, n) for n in range(2)]
    update_mapping(tmp_path / "private", store, records, records, URIS)
    before = read_mapping(tmp_path / "private")
    (tmp_path / "private" / MAPPING_FILE).unlink()
    update_mapping(tmp_path / "private", store, records, [], URIS)
    assert read_mapping(tmp_path / "private") == before


def test_rows_of_sources_that_left_the_archive_stay(store: ObjectStore, tmp_path: Path) -> None:
    old, new = record(store, tmp_path, 0), record(store, tmp_path, 1)
    update_mapping(tmp_path / "private", store, [old], [old], URIS)
    update_mapping(tmp_path / "private", store, [old, new], [new], {key_of("source 1"): "/archive/1.csv"})
    assert {row.uri for row in read_mapping(tmp_path / "private")} == {"/archive/0.csv", "/archive/1.csv"}


def test_a_lost_mapping_reads_removed_sources_once_and_again_when_they_come_back(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, present = [record(store, tmp_path, n) for n in range(2)], {key_of("source 1"): "/archive/1.csv"}
    update_mapping(tmp_path / "private", store, records, [], present)
    read = counted(monkeypatch)
    update_mapping(tmp_path / "private", store, records, [], present)
    assert read == []
    update_mapping(tmp_path / "private", store, records, [], URIS)
    assert read == records[0].shards
    assert len(read_mapping(tmp_path / "private")) == 6
    update_mapping(tmp_path / "private", store, records, [], URIS)
    assert read == records[0].shards


def test_a_moved_source_gets_its_new_path(store: ObjectStore, tmp_path: Path) -> None:
    records, moved = [record(store, tmp_path, n) for n in range(2)], key_of("source 0")
    update_mapping(tmp_path / "private", store, records, records, URIS)
    update_mapping(tmp_path / "private", store, records, [], URIS | {moved: "/archive/new/0.csv"}, {moved})
    assert {row.uri for row in read_mapping(tmp_path / "private")} == {"/archive/new/0.csv", "/archive/1.csv"}
