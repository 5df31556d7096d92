from __future__ import annotations

import errno
import pickle
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import DiskFullError, IntegrityError
from medfuncta_dist.packing import pack_task as module
from medfuncta_dist.packing.pack_record import read_pack
from medfuncta_dist.packing.pack_task import PackTask, pack_task, quarantine_sources
from medfuncta_dist.packing.source_reader import Event, SourceReader
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.source_list import list_sources
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.shard_set import ShardSet
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from tests.unit.shards.samples import objects, uploads
from tests.writers import write_ecg_csv

KEYS = KeyMaker(b"0123456789abcdef" * 2)
DATA = Data(source="unused", shape=[187], fractions={"train": 0.5, "test": 0.5}, shard_scans=8)


@pytest.fixture
def task(tmp_path: Path) -> PackTask:
    (tmp_path / "archive").mkdir()
    for n in range(3):
        write_ecg_csv(tmp_path / "archive" / f"Doe-{n}.csv", rows=10, seed=n)
    (tmp_path / "archive" / "Doe-1.csv").write_text("not a number\n")
    sources = list_sources(DATA.model_copy(update={"source": str(tmp_path / "archive")}), KEYS).sources
    return PackTask(str(tmp_path / "store"), "d", DATA, tuple(sources), KEYS, fence=ALONE)


def test_every_scan_is_packed_or_quarantined(task: PackTask) -> None:
    record = pack_task(task)
    store = ObjectStore(task.root)
    rows = [row for shard in record.shards for row in read_index(store, shard).to_pylist()]
    expected = {KEYS.scan_key(s.relative, f"row/{i}") for s in task.sources for i in range(10) if "1" not in s.relative}
    assert {row["key"] for row in rows} == expected
    assert len(rows) == 20
    assert {row["source"] for row in rows} == {task.sources[0].key, task.sources[2].key}
    assert max(shard.samples for shard in record.shards) <= 8
    assert record.counts["packed"] == 20
    assert len(record.quarantined) == 1
    assert record.quarantined[0]["source"] == task.sources[1].key


def test_it_travels_and_tells_nothing_when_printed(task: PackTask) -> None:
    there = pickle.loads(pickle.dumps(task))
    assert pack_task(there) == pack_task(task)
    assert "Doe" not in repr(task)
    assert KEYS._salt.hex() not in repr(task)


def test_a_full_disk_is_told_in_words_and_quarantines_nothing(task: PackTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(shards: ShardSet, *sample: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/Doe.tar")

    with monkeypatch.context() as patch:
        patch.setattr(ShardSet, "add", full)
        with pytest.raises(DiskFullError) as caught:
            pack_task(task)
    assert caught.value.do
    assert "Doe" not in str(caught.value)
    assert objects(ObjectStore(task.root)) == {}
    assert pack_task(task).counts["packed"] == 20


def test_nothing_in_storage_names_a_source(task: PackTask) -> None:
    pack_task(task)
    assert not [path for path, data in objects(ObjectStore(task.root)).items() if "Doe" in path or b"Doe" in data]


def test_done_once_it_is_not_done_again(task: PackTask, monkeypatch: pytest.MonkeyPatch) -> None:
    record = pack_task(task)
    before = objects(ObjectStore(task.root))
    for source in task.sources:
        Path(source.uri).unlink()
    paths = uploads(monkeypatch)
    assert pack_task(task) == record
    assert paths == []
    assert objects(ObjectStore(task.root)) == before


def test_killed_before_its_record_it_ends_as_if_it_never_was(task: PackTask, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(task, root=task.root + "-uninterrupted")
    pack_task(whole)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, "write_pack", killed)
        with pytest.raises(KeyboardInterrupt):
            pack_task(task)
    assert read_pack(ObjectStore(task.root), "d", task.name) is None
    paths = uploads(monkeypatch)
    pack_task(task)
    assert paths == []  # the shards were there
    assert objects(ObjectStore(task.root)) == objects(ObjectStore(whole.root))


def test_a_faster_twin_s_record_stays(task: PackTask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overtaken(SourceReader):
        def events(self, source: PackSource) -> Iterator[Event]:
            quarantine_sources(task, "the twin's words")
            return super().events(source)

    monkeypatch.setattr(module, "SourceReader", Overtaken)
    record = pack_task(task)
    assert {entry["reason"] for entry in record.quarantined} == {"the twin's words"}
    stored = read_pack(ObjectStore(task.root), "d", task.name)
    assert stored is not None
    assert stored.counts == record.counts


def test_a_scan_that_is_lost_on_the_way_is_noticed(task: PackTask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(ShardSet):
        def add(self, split: str, key: str, npy: bytes, json: bytes, source: str, item: str, *group: Any) -> None:
            if item != "row/7":
                super().add(split, key, npy, json, source, item, *group)

    monkeypatch.setattr(module, "ShardSet", Leaky)
    with pytest.raises(IntegrityError, match="not those packed plus those quarantined"):
        pack_task(task)
    assert read_pack(ObjectStore(task.root), "d", task.name) is None


def test_set_aside_quarantines_whole_sources(task: PackTask) -> None:
    record = quarantine_sources(task, "no worker survives it")
    assert record.counts["sources_quarantined"] == 3
    assert {entry["kind"] for entry in record.quarantined} == {"source"}
    assert pack_task(task) == record


def test_memory_does_not_grow_with_the_scans(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    data = DATA.model_copy(update={"source": str(tmp_path / "archive"), "shape": [2048], "shard_scans": 1024})
    write_ecg_csv(tmp_path / "archive" / "a.csv", rows=300)
    task = PackTask(str(tmp_path / "store"), "d", data, tuple(list_sources(data, KEYS).sources), KEYS, fence=ALONE)
    pack_task(replace(task, dataset="imports"))  # which take memory once
    tracemalloc.start()
    record = pack_task(task)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    arrays = record.counts["packed"] * 2048 * 4
    assert arrays > 2_400_000
    assert peak < arrays / 2
