"""Damaged shards and indexes packed again from the archive: the same bytes under the same names, or nothing."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import DiskFullError, IntegrityError, RunChangedError, RunFileError
from medfuncta_dist.integrity.repair_shards import CHANGED, repair_shards
from medfuncta_dist.integrity.verify_shards import Fault, verify_snapshot
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.scans.private.private_folder import SALT_FILE
from medfuncta_dist.shards.snapshot import Shard, Snapshot, load_snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.task_map import Failed, map_here
from medfuncta_dist.telemetry.progress_report import ignore_progress
from tests.unit.shards.samples import objects, run_file
from tests.writers import write_ecg_csv

POSITIONS = 100


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    """Six sources in three tasks, two splits."""
    (tmp_path / "archive").mkdir()
    for n in range(6):
        write_ecg_csv(tmp_path / "archive" / f"{n}.csv", rows=5, seed=n)
    run = run_file(tmp_path, sources_per_task=2, fractions={"train": 0.7, "test": 0.3}, shard_scans=4)
    pack(run, map_here, lambda progress: None)
    return run


def snapshot(run: RunFile) -> Snapshot:
    return load_snapshot(ObjectStore(run.storage), run.dataset, None)


def faults(run: RunFile) -> list[Fault]:
    return verify_snapshot(ObjectStore(run.storage), snapshot(run), map_here, ignore_progress)


def shards(run: RunFile) -> list[Shard]:
    return [shard for split in snapshot(run).splits.values() for shard in split]


def repaired(run: RunFile) -> list[Fault]:
    return repair_shards(run, snapshot(run), {fault.where for fault in faults(run)}, map_here, fence=ALONE)


def flip(store: ObjectStore, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))


def cut_at_a_members_end(store: ObjectStore, path: str) -> None:
    """What a tar reader takes for a whole, shorter archive."""
    local = Path(store.root) / path
    with tarfile.open(local) as tar:
        member = tar.getmembers()[1]
    data = store.read(path)[: member.offset]
    store.write(path, data)
    with tarfile.open(local) as tar:
        assert len(tar.getmembers()) == 1


def lose(store: ObjectStore, path: str) -> None:
    store.delete(path)


@pytest.mark.parametrize("how", [flip, cut_at_a_members_end, lose])
def test_damaged_shards_become_what_they_were(run: RunFile, how: Callable[[ObjectStore, str], None]) -> None:
    store = ObjectStore(run.storage)
    before = objects(store)
    for shard in (shards(run)[0], shards(run)[3]):
        how(store, shard.uri)
    assert len(faults(run)) == 2
    assert repaired(run) == []
    assert objects(store) == before
    assert faults(run) == []


@pytest.mark.parametrize("how", [flip, lose])
def test_a_damaged_index_is_made_again(run: RunFile, how: Callable[[ObjectStore, str], None]) -> None:
    store = ObjectStore(run.storage)
    before = objects(store)
    how(store, shards(run)[1].index_uri)
    assert repaired(run) == []
    assert objects(store) == before


def test_only_the_sources_of_the_damaged_shard_are_read(run: RunFile, tmp_path: Path) -> None:
    store = ObjectStore(run.storage)
    flip(store, shards(run)[0].uri)
    read: list[int] = []
    repair_shards(
        run,
        snapshot(run),
        {shards(run)[0].uri},
        lambda task, items: map_here(lambda item: read.append(len(item.pack.sources)) or task(item), items),
        fence=ALONE,
    )
    assert read == [2]


def test_a_source_that_has_changed_is_refused_and_nothing_is_touched(run: RunFile, tmp_path: Path) -> None:
    store = ObjectStore(run.storage)
    for shard in shards(run):
        flip(store, shard.uri)
    before = objects(store)
    for n in range(6):
        write_ecg_csv(tmp_path / "archive" / f"{n}.csv", rows=5, seed=100 + n)
    left = repaired(run)
    assert {fault.what for fault in left} == {CHANGED}
    assert len(left) == len(shards(run))
    assert objects(store) == before


def test_a_repair_that_fails_names_no_file(run: RunFile) -> None:
    flip(ObjectStore(run.storage), shards(run)[0].uri)

    def failing(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Failed]:
        errors = (FileNotFoundError(2, "No such file", "/archive/Doe^Jane.csv"), DiskFullError("a disk is full"))
        yield from (Failed(item, error) for item in items for error in errors)

    [unforeseen, ours] = repair_shards(run, snapshot(run), {shards(run)[0].uri}, failing, fence=ALONE)
    assert unforeseen.what == "not repaired: FileNotFoundError"
    assert ours.what == "not repaired: a disk is full"


def test_a_source_that_has_left_the_archive_is_told(run: RunFile, tmp_path: Path) -> None:
    flip(ObjectStore(run.storage), shards(run)[0].uri)
    for n in range(0, 6, 2):
        (tmp_path / "archive" / f"{n}.csv").unlink()
    [fault] = repaired(run)
    assert fault.what == "1 of its 2 sources are no longer in the archive"


def test_without_the_salt_or_with_another_nothing_is_packed(run: RunFile, tmp_path: Path) -> None:
    flip(ObjectStore(run.storage), shards(run)[0].uri)
    salt = tmp_path / "private" / SALT_FILE
    salt.write_text("ab" * 32)
    with pytest.raises(RunChangedError, match="another salt"):
        repaired(run)
    salt.unlink()
    with pytest.raises(RunFileError, match="the salt is not"):
        repaired(run)
    assert not salt.exists()


def flipped(data: bytes, seed: int) -> bytes:
    bit = random.Random(seed).randrange(8 * len(data))
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_a_flipped_bit_of_a_shard_is_noticed_wherever_it_is(run: RunFile, tmp_path: Path) -> None:
    store, shard = ObjectStore(run.storage), shards(run)[0]
    good, cache = store.read(shard.uri), ShardCache(store, tmp_path / "cache", 2**30)
    for seed in range(POSITIONS):
        store.write(shard.uri, flipped(good, seed))
        with pytest.raises(IntegrityError):
            cache.path(shard)


def test_a_flipped_bit_of_an_index_is_noticed_wherever_it_is(run: RunFile) -> None:
    store, shard = ObjectStore(run.storage), shards(run)[0]
    good = store.read(shard.index_uri)
    for seed in range(POSITIONS):
        store.write(shard.index_uri, flipped(good, seed))
        with pytest.raises(IntegrityError):
            read_index(store, shard)


def test_a_lost_pack_record_is_a_fault(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    store.delete(store.list(f"datasets/{run.dataset}/packs")[0].path)
    assert [fault.what for fault in faults(run)] == ["a pack record is missing"]
