from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    DeadlineError,
    IntegrityError,
    LeaseLostError,
    QuarantineLimitError,
    RunChangedError,
    RunFileError,
    WorkerDiedError,
)
from medfuncta_dist.packing.pack_driver import PackSummary, PackTask, pack, pack_task
from medfuncta_dist.packing.pack_record import PackRecord, group_name, write_pack
from medfuncta_dist.scans.private.private_folder import SALT_FILE
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot, newest_snapshot, read_index
from medfuncta_dist.storage.leases.lease import dataset_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import Done, Failed, map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.mapping_rows import read_mapping
from tests.unit.shards.samples import objects, run_file, uploads
from tests.writers import PATIENT, PATIENT_ID, PATIENT_UID, write_dicom, write_ecg_csv, write_nifti

ROWS = 4


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    make: Callable[[], str] = (
        request.getfixturevalue("s3") if request.param == "s3" else lambda: str(tmp_path / "store")
    )
    return make()


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    (tmp_path / "archive").mkdir()
    add(tmp_path, range(5))
    return run_file(tmp_path, sources_per_task=2)


def add(folder: Path, numbers: Sequence[int]) -> None:
    for n in numbers:
        write_ecg_csv(folder / "archive" / f"Doe-{n:02}.csv", rows=ROWS, seed=n)


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def loaded(run: RunFile, digest: str | None = None) -> Snapshot:
    return load_snapshot(ObjectStore(run.storage), run.dataset, digest)


def keys(run: RunFile, snapshot: Snapshot) -> list[str]:
    store = ObjectStore(run.storage)
    shards = [shard for shards in snapshot.splits.values() for shard in shards]
    return sorted(key for shard in shards for key in read_index(store, shard)["key"].to_pylist())


def test_every_scan_is_in_a_shard_and_in_the_mapping(run: RunFile, root: str, tmp_path: Path) -> None:
    run = run.model_copy(update={"storage": root})
    summary = packed(run)
    snapshot = loaded(run)
    assert summary.snapshot_digest == snapshot.digest
    assert summary.counts["sources"] == 5
    assert summary.counts["packed"] == snapshot.samples == sum(summary.splits.values()) == 5 * ROWS
    assert (snapshot.parent, snapshot.generation, len(snapshot.packs)) == (None, 1, 3)
    rows = read_mapping(tmp_path / "private")
    assert [row.key for row in rows] == keys(run, snapshot)
    assert sorted((row.uri, row.item) for row in rows) == [
        (str(tmp_path / "archive" / f"Doe-{n:02}.csv"), f"row/{i}") for n in range(5) for i in range(ROWS)
    ]


def test_packing_again_changes_nothing(run: RunFile, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run.model_copy(update={"storage": root})
    first = packed(run)
    before = objects(ObjectStore(run.storage))
    paths = uploads(monkeypatch)
    monkeypatch.setattr(ObjectStore, "write", lambda store, path, data: pytest.fail(f"wrote {path}"))
    again = packed(run)
    assert paths == []
    assert objects(ObjectStore(run.storage)) == before
    assert again.snapshot_digest == first.snapshot_digest
    assert (again.counts, again.splits, again.new_sources) == (first.counts, first.splits, 0)


def test_new_scans_make_new_shards_and_a_snapshot_that_names_its_parent(
    run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(run, packed(run).snapshot_digest)
    add(tmp_path, [7, 8])
    paths = uploads(monkeypatch)
    summary = packed(run)
    second = loaded(run)
    assert (second.parent, second.generation, summary.new_sources) == (first.digest, 2, 2)
    for split, shards in first.splits.items():
        assert list(second.splits[split])[: len(shards)] == list(shards)
    new = {s.uri for v in second.splits.values() for s in v} - {s.uri for v in first.splits.values() for s in v}
    assert set(paths) == new
    assert len(keys(run, second)) == len(set(keys(run, second))) == 7 * ROWS
    assert set(keys(run, first)) < set(keys(run, second))
    assert loaded(run, first.digest).digest == first.digest  # a run that pins it still finds it
    assert len(read_mapping(tmp_path / "private")) == 7 * ROWS


def test_sources_that_leave_the_archive_stay_packed(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    (tmp_path / "archive" / "Doe-03.csv").unlink()
    again = packed(run)
    assert again.snapshot_digest == first.snapshot_digest
    assert again.counts["packed"] == 5 * ROWS


def test_the_same_archive_makes_the_same_data_set_in_any_order(run: RunFile, tmp_path: Path) -> None:
    def backwards(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        return map_here(task, items[::-1])

    first = packed(run)
    other = run.model_copy(update={"storage": str(tmp_path / "other")})
    assert pack(other, backwards, lambda progress: None).snapshot_digest == first.snapshot_digest
    assert objects(ObjectStore(other.storage)) == objects(ObjectStore(run.storage))


def test_one_corrupt_file_is_quarantined_and_the_rest_is_packed(run: RunFile, tmp_path: Path) -> None:
    bad = tmp_path / "archive" / "Doe-02.csv"
    bad.write_bytes(b"\x00\xff" * 500)
    summary = packed(run)
    assert (summary.counts["sources_packed"], summary.counts["sources_quarantined"]) == (4, 1)
    assert summary.counts["packed"] == 4 * ROWS
    [entry] = summary.quarantined
    assert set(entry) == {"key", "reason", "kind"}
    [row] = [row for row in read_mapping(tmp_path / "private") if row.key == entry["key"]]
    assert row.uri == str(bad)
    assert packed(run).new_sources == 0  # it is not tried for ever


class Killed(BaseException):
    """What stands for kill -9: nothing may catch it."""


def tasks_of(run: RunFile, n: int = 0) -> list[PackTask]:
    """The tasks that packing would run; the first ``n`` of them were run."""
    tasks: list[PackTask] = []

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        tasks.extend(items)
        yield from map_here(task, items[:n])
        raise Killed

    with pytest.raises(Killed):
        pack(run, fan_out, lambda progress: None)
    return tasks


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_killed_anywhere_and_run_again_it_is_as_if_uninterrupted(
    run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    whole = run.model_copy(update={"storage": str(tmp_path / "whole")})
    packed(whole)
    tasks_of(run, n)
    before = set(objects(ObjectStore(run.storage)))
    paths = uploads(monkeypatch)
    summary = packed(run)
    assert summary.new_sources == 5 - min(2 * n, 5)
    assert not before & set(paths)
    assert objects(ObjectStore(run.storage)) == objects(ObjectStore(whole.storage))


def test_a_late_duplicate_with_another_listing_changes_nothing(run: RunFile, tmp_path: Path) -> None:
    add(tmp_path, [9])
    seen: list[PackTask] = []

    def listing(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        seen.extend(items)
        yield from map_here(task, items)

    first = pack(run, listing, lambda progress: None)
    # Another driver saw other neighbours, and commits its overlapping groups when the snapshot is long there.
    sources = [source for task in seen for source in task.sources]
    for start in range(0, 5):
        late = PackTask(
            seen[0].root, seen[0].dataset, seen[0].data, tuple(sources[start : start + 3]), seen[0].keys, fence=ALONE
        )
        pack_task(late)
    again = packed(run)
    assert again.snapshot_digest == first.snapshot_digest
    assert again.counts["packed"] == 6 * ROWS


def test_overlapping_groups_without_a_snapshot_still_pack_every_scan_once(run: RunFile) -> None:
    tasks = tasks_of(run, 2)
    sources = [source for task in tasks for source in task.sources]
    for group in (sources[1:4], sources[0:3], sources[3:5]):
        pack_task(PackTask(tasks[0].root, tasks[0].dataset, tasks[0].data, tuple(group), tasks[0].keys, fence=ALONE))
    summary = packed(run)
    found = keys(run, loaded(run))
    assert len(found) == len(set(found)) == summary.counts["packed"] == 5 * ROWS


def deadly(*names: str) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Done | Failed]]:
    """A fan-out whose workers die of some sources."""

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        for item in items:
            if any(name in source.relative for source in item.sources for name in names):
                yield Failed(item, WorkerDiedError("a worker died on the same task 3 times"), attempts=3)
            else:
                yield from map_here(task, [item])

    return fan_out


def test_a_task_that_no_worker_survives_costs_only_its_source(run: RunFile) -> None:
    summary = pack(run, deadly("Doe-02"), lambda progress: None)
    assert summary.counts["packed"] == 4 * ROWS
    [entry] = summary.quarantined
    assert (entry["kind"], entry["reason"]) == ("source", "packing this source failed: WorkerDiedError")
    assert packed(run).new_sources == 0


def test_workers_that_die_of_everything_are_to_blame_themselves(run: RunFile) -> None:
    with pytest.raises(WorkerDiedError, match="failed, on 3 of 5 sources: WorkerDiedError"):
        pack(run, deadly("Doe-00", "Doe-02", "Doe-03"), lambda progress: None)
    summary = packed(run)  # on machines with more memory
    assert (summary.new_sources, summary.counts["packed"]) == (3, 5 * ROWS)
    assert summary.quarantined == []


@pytest.mark.parametrize("error", [DeadlineError("storage does not answer"), OSError(28, "No space left on device")])
def test_storage_and_disk_are_never_blamed_on_a_source(run: RunFile, error: Exception) -> None:
    with pytest.raises(type(error)):
        pack(run, lambda task, items: iter([Failed(items[0], error)]), lambda progress: None)
    assert packed(run).counts["packed"] == 5 * ROWS


def test_a_lost_pack_record_does_not_pack_its_scans_a_second_time(run: RunFile) -> None:
    packed(run)
    store = ObjectStore(run.storage)
    store.delete(store.list(f"datasets/{run.dataset}/packs")[0].path)
    with pytest.raises(IntegrityError, match=r"1 pack records .* are missing") as caught:
        packed(run)
    assert "/packs/" in caught.value.where


def test_a_storage_among_the_sources_is_refused(run: RunFile, tmp_path: Path) -> None:
    inside = run.model_copy(update={"storage": str(tmp_path / "archive" / "store")})
    ObjectStore(inside.storage).write("runs/x/old.csv", b"1,2")
    with pytest.raises(RunFileError, match="1 of 6 source files lie inside the storage"):
        packed(inside)


def test_a_fan_out_that_loses_a_task_is_noticed(run: RunFile) -> None:
    with pytest.raises(IntegrityError, match="5 sources were to be packed, 3 came back"):
        pack(run, lambda task, items: map_here(task, items[1:]), lambda progress: None)


def test_too_many_quarantined_make_no_snapshot_but_can_be_looked_up(run: RunFile, tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / "archive" / f"Doe-{n:02}.csv").write_bytes(b"\x00" * n)
    strict = run_file(tmp_path, sources_per_task=2, max_quarantined=0.1)
    with pytest.raises(QuarantineLimitError, match="2 of 14 scans") as caught:
        packed(strict)
    assert "Doe" not in str(caught.value)
    assert not [path for path in objects(ObjectStore(run.storage)) if "/commits/" in path]
    assert len(read_mapping(tmp_path / "private")) == 3 * ROWS + 2
    lenient = packed(run)
    assert (lenient.new_sources, lenient.counts["packed"]) == (0, 3 * ROWS)


def test_sources_without_one_usable_scan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.csv").write_bytes(b"\x00")
    with pytest.raises(RunFileError, match="no usable scan"):
        packed(run_file(tmp_path, max_quarantined=1.0))


def test_another_contract_is_refused_before_anything_is_packed(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    before = objects(ObjectStore(run.storage))
    add(tmp_path, [7])
    with pytest.raises(RunChangedError, match=r"data\.shape: \[100\] in the run file, \[187\] in the data set"):
        packed(run_file(tmp_path, shape=[100]))
    assert objects(ObjectStore(run.storage)) == before


def test_another_salt_is_refused_before_anything_is_packed_twice(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    before = objects(ObjectStore(run.storage))
    (tmp_path / "private" / SALT_FILE).unlink()
    with pytest.raises(RunChangedError, match="another salt"):
        packed(run)
    assert objects(ObjectStore(run.storage)) == before


def test_progress_ends_at_all_and_counts_what_was_done_before(run: RunFile, tmp_path: Path) -> None:
    seen: list[ProgressReport] = []
    pack(run, map_here, seen.append)
    assert [(p.done, p.total) for p in seen] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert [p.notes["packed"] for p in seen] == [0, 2 * ROWS, 4 * ROWS, 5 * ROWS]
    sizes = [file.stat().st_size for file in sorted(tmp_path.glob("archive/*.csv"))]
    assert [p.size for p in seen] == [(sum(sizes[:done]), sum(sizes)) for done in (0, 2, 4, 5)]
    add(tmp_path, [7])
    seen.clear()
    pack(run, map_here, seen.append)
    new = (tmp_path / "archive").glob("*7*.csv")
    assert [p.size for p in seen] == [(sum(sizes), whole := sum(sizes) + next(new).stat().st_size), (whole, whole)]
    assert [(p.done, p.notes["packed"]) for p in seen] == [(5, 5 * ROWS), (6, 6 * ROWS)]


def test_a_damaged_record_stops_everything(run: RunFile) -> None:
    packed(run)
    store = ObjectStore(run.storage)
    path = next(info.path for info in store.list(f"datasets/{run.dataset}/packs"))
    store.write(path, store.read(path).replace(b'"packed":', b'"packed":1'))
    with pytest.raises(IntegrityError):
        packed(run)


def test_a_record_that_counts_wrong_is_noticed(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    [done, *_] = list(map_here(pack_task, tasks_of(run)))
    assert isinstance(done, Done)
    record: PackRecord = done.result
    sources = [source.key for source in done.item.sources]
    wrong = PackRecord(record.name, sources, {}, (), record.counts)
    assert group_name(sources) == record.name
    write_pack(store, run.dataset, wrong, fence=ALONE)
    with pytest.raises(IntegrityError, match="do not hold each packed scan once"):
        packed(run)


def test_no_byte_of_a_patient_reaches_storage(tmp_path: Path) -> None:
    (tmp_path / "archive" / PATIENT).mkdir(parents=True)
    write_dicom(tmp_path / "archive" / PATIENT / f"{PATIENT_UID}.dcm")
    write_nifti(tmp_path / "archive" / PATIENT / f"{PATIENT_ID}.nii.gz", shape=(8, 8, 1))
    (tmp_path / "archive" / PATIENT / "bad.dcm").write_bytes(PATIENT.encode())
    run = run_file(tmp_path, shape=[16, 16])
    summary = packed(run)
    assert (summary.counts["packed"], summary.counts["sources_quarantined"]) == (2, 1)
    secrets = [text.encode() for text in (PATIENT, PATIENT_ID, PATIENT_UID, "Doe", "archive", str(tmp_path))]
    for path, data in objects(ObjectStore(run.storage)).items():
        assert not [s for s in secrets if s in data or s in path.encode()], path


def test_any_webdataset_reader_can_use_the_result(run: RunFile) -> None:
    packed(run)
    store = ObjectStore(run.storage)
    names = set()
    for shards in loaded(run).splits.values():
        for shard in shards:
            with tarfile.open(store.uri(shard.uri)) as tar:
                names |= set(tar.getnames())
    assert len(names) == 2 * 5 * ROWS


def test_a_damaged_mapping_is_made_again_once_deleted(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    mapping = tmp_path / "private" / "mapping.sqlite"
    whole = read_mapping(tmp_path / "private")
    mapping.write_text("nothing that is a mapping\n" * 100)
    with pytest.raises(IntegrityError) as caught:
        packed(run)
    assert "delete it and pack again" in caught.value.do
    mapping.unlink()
    packed(run)
    assert read_mapping(tmp_path / "private") == whole


def test_a_superseded_driver_commits_nothing_more(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    old = take(store, dataset_lease(run.dataset), 60, print)

    def taken_over(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        yield from map_here(task, items[:1])
        old.give_back()
        yield from map_here(task, items[1:])

    with pytest.raises(LeaseLostError):
        pack(run, taken_over, lambda progress: None, fence=old.fence)
    assert len(store.list(f"datasets/{run.dataset}/packs")) == 1
    assert newest_snapshot(store, run.dataset) is None
    successor = take(store, dataset_lease(run.dataset), 60, print)
    assert pack(run, map_here, lambda progress: None, fence=successor.fence).new_sources == 3
