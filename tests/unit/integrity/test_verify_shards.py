from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medfuncta_dist.errors import DeadlineError
from medfuncta_dist.integrity.verify_shards import Fault, verify_snapshot
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import Shard, Snapshot, load_snapshot, read_index
from medfuncta_dist.shards.split_patients import SplitPatients
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import Failed, map_here
from medfuncta_dist.telemetry.progress_report import ignore_progress
from tests.unit.shards.samples import run_file
from tests.writers import write_ecg_csv, write_nifti


@pytest.fixture
def packed(tmp_path: Path) -> tuple[ObjectStore, Snapshot]:
    (tmp_path / "archive").mkdir()
    for n in range(2):
        write_ecg_csv(tmp_path / "archive" / f"{n}.csv", rows=6, seed=n)
    run = run_file(tmp_path, sources_per_task=1, fractions={"train": 1.0})
    pack(run, map_here, lambda progress: None)
    store = ObjectStore(run.storage)
    return store, load_snapshot(store, run.dataset, None)


def faults(packed: tuple[ObjectStore, Snapshot]) -> list[Fault]:
    return verify_snapshot(*packed, map_here, ignore_progress)


def first(packed: tuple[ObjectStore, Snapshot]) -> Shard:
    return packed[1].shards("train")[0]


def test_a_whole_data_set_has_no_faults(packed: tuple[ObjectStore, Snapshot]) -> None:
    seen: list[tuple[int, int]] = []
    assert verify_snapshot(*packed, map_here, lambda report: seen.append((report.done, report.total))) == []
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("what", ["flipped", "cut", "missing"])
@pytest.mark.parametrize("member", ["uri", "index_uri"])
def test_one_damaged_object_is_one_fault_and_the_rest_is_checked(
    packed: tuple[ObjectStore, Snapshot], what: str, member: str
) -> None:
    store, path = packed[0], getattr(first(packed), member)
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    if what == "missing":
        store.delete(path)
    else:
        store.write(path, bytes(data) if what == "flipped" else bytes(data[: len(data) // 2]))
    [fault] = faults(packed)
    assert fault.where == first(packed).uri


def test_a_patient_in_two_splits_is_a_fault_unless_the_splits_were_given(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        (tmp_path / split).mkdir()
        write_nifti(tmp_path / split / f"sub-01_{split}.nii.gz", shape=(8, 8, 4), seed=seed)
    splits = {split: str(tmp_path / split) for split in ("train", "test")}
    run = run_file(tmp_path, source=None, splits=splits, shape=[8, 8, 4])
    assert pack(run, map_here, lambda progress: None).patients == SplitPatients(1, 1, {"bids": 2})
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    assert faults((store, snapshot)) == []
    drawn = replace(snapshot, contract={**snapshot.contract, "splits": None})
    [fault] = faults((store, drawn))
    assert fault.what == "1 of 1 patients are in several splits"


def test_samples_are_counted_against_the_ledger(packed: tuple[ObjectStore, Snapshot]) -> None:
    store, snapshot = packed
    lost = replace(snapshot, splits={"train": snapshot.splits["train"][1:]})
    [fault] = faults((store, lost))
    assert "6 samples in shards, but 12 scans packed" in fault.what


def test_storage_that_does_not_answer_is_no_fault_of_the_bytes(packed: tuple[ObjectStore, Snapshot]) -> None:
    with pytest.raises(DeadlineError):
        verify_snapshot(
            *packed, lambda task, items: iter([Failed(items[0], DeadlineError("late"))]), lambda done, total: None
        )


def test_a_sample_s_own_checksum_is_compared(packed: tuple[ObjectStore, Snapshot]) -> None:
    store, snapshot = packed
    one, other = snapshot.shards("train")
    # Two whole objects that do not belong together: only the samples' checksums can tell.
    swapped = replace(one, index_uri=other.index_uri, index_size=other.index_size, index_sha256=other.index_sha256)
    assert read_index(store, swapped).num_rows == 6
    [fault] = faults((store, replace(snapshot, splits={"train": (swapped, other)})))
    assert "does not match the index" in fault.what


def test_a_scan_that_is_packed_twice_is_told(packed: tuple[ObjectStore, Snapshot]) -> None:
    store, snapshot = packed
    one, _ = snapshot.shards("train")
    [fault] = faults((store, replace(snapshot, splits={"train": (one, one)})))
    assert "6 scans are packed more than once" in fault.what
