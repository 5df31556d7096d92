"""Archives change under a data set: what the next pack makes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.archive.inventory import INVENTORY
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.integrity.repair_shards import repair_shards
from medfuncta_dist.integrity.verify_shards import verify_snapshot
from medfuncta_dist.packing import archive_state
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_record import read_packs, record_path, write_pack
from medfuncta_dist.packing.sources import source_files
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import Done, Failed, map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.mapping_rows import read_mapping
from tests.unit.shards.samples import objects, run_file
from tests.writers import write_ecg_csv, write_medmnist, write_nifti

ROWS = 4
ALL = {"new": 0, "same": 0, "changed": 0, "renamed": 0, "copied": 0, "removed": 0}


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    (tmp_path / "archive").mkdir()
    for n in range(5):
        write(tmp_path, n)
    return run_file(tmp_path, sources_per_task=3)


def write(folder: Path, n: int, seed: int | None = None, rows: int = ROWS) -> Path:
    return write_ecg_csv(folder / "archive" / f"Doe-{n:02}.csv", rows=rows, seed=n if seed is None else seed)


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def loaded(run: RunFile, digest: str | None = None) -> Snapshot:
    return load_snapshot(ObjectStore(run.storage), run.dataset, digest)


def samples(run: RunFile, digest: str | None = None) -> dict[str, tuple[str, bytes]]:
    """Key → split and values of every packed scan of a snapshot, each of which must be there once."""
    store, found = ObjectStore(run.storage), {}
    for split, shards in loaded(run, digest).splits.items():
        for shard in shards:
            tar = store.read(shard.uri)
            for row in read_index(store, shard).to_pylist():
                npy, json = (tar[row[f"{m}_offset"] : row[f"{m}_offset"] + row[f"{m}_length"]] for m in ("npy", "json"))
                assert row["key"] not in found
                found[row["key"]] = (split, np.asarray(decode(row["key"], npy, json).array).tobytes())
    return found


def afresh(run: RunFile, tmp_path: Path) -> dict[str, tuple[str, bytes]]:
    """What a new data set of the present archive holds."""
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    other = run.model_copy(
        update={
            "storage": str(tmp_path / "elsewhere" / "store"),
            "data": run.data.model_copy(update={"private": str(tmp_path / "elsewhere" / "private")}),
        }
    )
    (tmp_path / "elsewhere" / "private").mkdir(parents=True)
    shutil.copy(tmp_path / "private" / "salt", tmp_path / "elsewhere" / "private" / "salt")
    packed(other)
    return samples(other)


def changes(summary: PackSummary, **expected: int) -> None:
    assert summary.changes == ALL | expected


def test_a_source_with_more_scans_is_read_again(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    before = samples(run)
    write(tmp_path, 1, rows=ROWS + 3)
    summary = packed(run)
    changes(summary, same=4, changed=1)
    assert (summary.new_sources, summary.counts["packed"], summary.counts["sources"]) == (1, 5 * ROWS + 3, 5)
    assert samples(run) == afresh(run, tmp_path)
    assert before.items() <= samples(run).items()
    second = loaded(run)
    assert (second.parent, second.generation) == (first.snapshot_digest, 2)
    assert samples(run, first.snapshot_digest) == before  # a run that pins it still finds it
    assert len(read_mapping(tmp_path / "private")) == 5 * ROWS + 3
    assert verify_snapshot(ObjectStore(run.storage), second, map_here, lambda progress: None) == []
    again = packed(run)
    changes(again, same=5)
    assert again.snapshot_digest == second.digest


def test_a_grown_npz_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    path = tmp_path / "archive" / "mnist.npz"
    write_medmnist(path, counts={"train": 5, "test": 3})
    run = run_file(tmp_path, shape=[28, 28])
    assert packed(run).counts["packed"] == 8
    write_medmnist(path, counts={"train": 9, "test": 3})
    summary = packed(run)
    changes(summary, changed=1)
    assert (summary.counts["packed"], summary.splits) == (12, {"train": 9, "test": 3})
    assert samples(run) == afresh(run, tmp_path)


def test_garbage_is_quarantined_and_a_repaired_file_packed(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    before = samples(run)
    path = tmp_path / "archive" / "Doe-02.csv"
    whole = path.read_bytes()
    path.write_bytes(b"\x00\xff" * 500)
    summary = packed(run)
    changes(summary, same=4, changed=1)
    assert (summary.counts["packed"], summary.counts["sources_quarantined"]) == (4 * ROWS, 1)
    assert [entry["kind"] for entry in summary.quarantined] == ["source"]
    path.write_bytes(whole)
    repaired = packed(run)
    changes(repaired, same=4, changed=1)
    assert repaired.quarantined == []
    assert repaired.counts["packed"] == 5 * ROWS
    assert samples(run) == before
    path.write_bytes(b"\x00\xff" * 500)  # and back again: names of earlier records must not be taken for the new ones
    assert packed(run).counts["sources_quarantined"] == 1


def test_a_change_that_keeps_the_size_is_seen(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    path = tmp_path / "archive" / "Doe-03.csv"
    data = bytearray(path.read_bytes())
    data[2:6] = b"4321"
    path.write_bytes(data)
    os.utime(path, ns=(1, 10**18))
    changes(packed(run), same=4, changed=1)
    assert samples(run) == afresh(run, tmp_path)


def test_an_archive_on_s3_lives_too(tmp_path: Path, s3: Callable[[], str]) -> None:
    archive = ObjectStore(s3())
    texts = [write_ecg_csv(tmp_path / f"{n}.csv", rows=ROWS, seed=n).read_bytes() for n in range(6)]
    for n in range(4):
        archive.write(f"Doe-{n}.csv", texts[n])
    run = run_file(tmp_path, source=archive.root)
    changes(packed(run), new=4)
    changes(packed(run), same=4)
    archive.write("Doe-0.csv", texts[4])
    archive.write("Roe.csv", texts[1])
    archive.delete("Doe-1.csv")
    archive.write("copy.csv", texts[2])
    archive.write("Doe-3.csv", texts[3])  # written again: the same ETag
    archive.write("new.csv", texts[5])
    summary = packed(run)
    changes(summary, same=2, changed=1, renamed=1, copied=1, new=1)
    assert summary.counts["packed"] == len(samples(run)) == 5 * ROWS


def test_an_archive_that_moves_to_s3_is_the_same(run: RunFile, tmp_path: Path, s3: Callable[[], str]) -> None:
    first = packed(run)
    archive = ObjectStore(s3())
    for path in (tmp_path / "archive").iterdir():
        archive.write(path.name, path.read_bytes())
    moved = run.model_copy(update={"data": run.data.model_copy(update={"source": archive.root})})
    summary = packed(moved)
    changes(summary, same=5)
    assert summary.snapshot_digest == first.snapshot_digest
    archive.write("Doe-00.csv", archive.read("Doe-00.csv")[::-1])  # as large
    changes(packed(moved), same=4, changed=1)


def test_a_touched_file_is_the_same(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    os.utime(tmp_path / "archive" / "Doe-03.csv", ns=(1, 10**18))
    summary = packed(run)
    changes(summary, same=5)
    assert summary.snapshot_digest == first.snapshot_digest


def test_a_renamed_file_keeps_its_scans(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    new = tmp_path / "archive" / "moved" / "Roe.csv"
    new.parent.mkdir()
    (tmp_path / "archive" / "Doe-04.csv").rename(new)
    summary = packed(run)
    changes(summary, same=4, renamed=1)
    assert summary.snapshot_digest == first.snapshot_digest
    rows = read_mapping(tmp_path / "private")
    assert len(rows) == 5 * ROWS
    assert sum(row.uri == str(new) for row in rows) == ROWS
    changes(packed(run), same=5)
    write_ecg_csv(new, rows=ROWS + 1, seed=4)  # its scans keep their keys when it grows under its new name
    before = samples(run)
    grown = packed(run)
    changes(grown, same=4, changed=1)
    assert grown.counts["packed"] == 5 * ROWS + 1
    assert before.items() <= samples(run).items()


def test_a_file_that_is_moved_to_another_split_is_packed_there(tmp_path: Path) -> None:
    for n, folder in enumerate(["one", "one", "two"]):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_ecg_csv(tmp_path / folder / f"{n}.csv", rows=ROWS, seed=n)
    run = run_file(tmp_path, source=None, splits={"train": str(tmp_path / "one"), "test": str(tmp_path / "two")})
    assert packed(run).splits == {"train": 2 * ROWS, "test": ROWS}
    (tmp_path / "one" / "0.csv").rename(tmp_path / "two" / "0.csv")
    summary = packed(run)
    changes(summary, same=2, new=1, removed=1)
    assert summary.splits == {"train": ROWS, "test": 2 * ROWS}
    (tmp_path / "one" / "1.csv").rename(tmp_path / "one" / "renamed.csv")
    again = packed(run)
    changes(again, same=2, renamed=1)
    assert again.snapshot_digest == summary.snapshot_digest


def groups(run: RunFile) -> dict[str, tuple[str, str]]:
    """Key → split and patient of every scan."""
    store = ObjectStore(run.storage)
    return {
        row["key"]: (split, row["group"])
        for split, shards in loaded(run).splits.items()
        for shard in shards
        for row in read_index(store, shard).to_pylist()
    }


def test_a_file_that_is_moved_to_another_patient_is_packed_as_that_one_s(tmp_path: Path) -> None:
    def volume(name: str, seed: int) -> Path:
        (tmp_path / "archive" / name).parent.mkdir(parents=True, exist_ok=True)
        return write_nifti(tmp_path / "archive" / name, (4, 4, 4), seed=seed)

    for patient in range(8):
        volume(f"sub-{patient}/a.nii", patient)
    wrong = volume("sub-0/b.nii", 100)
    run = run_file(tmp_path, shape=[4, 4, 4], fractions={"train": 0.5, "test": 0.5})
    packed(run)
    for patient in range(1, 8):
        right = tmp_path / "archive" / f"sub-{patient}" / "b.nii"
        wrong = wrong.rename(right)
        summary = packed(run)
        changes(summary, same=8, new=1, removed=1)
        assert summary.counts["packed"] == 9
        assert len(groups(run)) == 9
        assert len(set(groups(run).values())) == len({group for _, group in groups(run).values()}) == 8
    for again in ("sub-7/c.nii", "nobody/c.nii"):  # the same patient, and nothing that tells another one
        (tmp_path / "archive" / again).parent.mkdir(exist_ok=True)
        wrong = wrong.rename(tmp_path / "archive" / again)
        changes(packed(run), same=8, renamed=1)
    require_repairable(run)  # as that patient's, which only the index and the former name still tell
    require_repairable(run, indexes=True)


def test_a_table_that_tells_another_patient_or_split_counts(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    rows = {f"{n}.csv": [f"p{n % 3}", "test" if n % 3 else "train"] for n in range(6)}
    columns = {"table": str(tmp_path / "table"), "split": "split"}
    run = run_file(tmp_path, group=columns)

    def again() -> PackSummary:
        lines = [["source", "group", "split"], *([name, *row] for name, row in rows.items())]
        (tmp_path / "table").write_text("".join(",".join(line) + "\n" for line in lines))
        return packed(run)

    for n in range(6):
        write(tmp_path, n).rename(tmp_path / "archive" / f"{n}.csv")
    first = again()
    assert first.splits == {"train": 2 * ROWS, "test": 4 * ROWS}
    (tmp_path / "archive" / "5.csv").rename(tmp_path / "archive" / "Roe.csv")
    rows["Roe.csv"] = rows.pop("5.csv")
    renamed = again()
    changes(renamed, same=5, renamed=1)
    assert renamed.snapshot_digest == first.snapshot_digest
    rows["1.csv"] = ["p1", "train"]
    rows["2.csv"] = ["p1", "test"]
    summary = again()
    changes(summary, same=4, changed=2)
    assert summary.splits == {"train": 3 * ROWS, "test": 3 * ROWS}
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (3, 1)
    changes(again(), same=6)


def test_a_renamed_file_is_recognised_without_the_private_inventory(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    (tmp_path / "archive" / "Doe-04.csv").rename(tmp_path / "archive" / "Roe.csv")
    (tmp_path / "private" / INVENTORY).unlink()
    summary = packed(run)
    changes(summary, same=4, renamed=1)
    assert summary.snapshot_digest == first.snapshot_digest


def test_another_file_at_a_path_that_was_renamed_is_a_source_of_its_own(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    (tmp_path / "archive" / "Doe-04.csv").rename(tmp_path / "archive" / "Roe.csv")
    packed(run)
    write(tmp_path, 4, seed=99)
    summary = packed(run)
    changes(summary, same=5, new=1)
    assert summary.counts["packed"] == len(samples(run)) == 6 * ROWS
    changes(packed(run), same=6)


def test_a_copy_is_packed_once(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    shutil.copy(tmp_path / "archive" / "Doe-01.csv", tmp_path / "archive" / "A-copy.csv")
    for _ in range(2):
        summary = packed(run)
        changes(summary, same=5, copied=1)
        assert summary.snapshot_digest == first.snapshot_digest
    (tmp_path / "archive" / "Doe-01.csv").unlink()  # of the two, the copy is left: a renamed file
    changes(packed(run), same=4, renamed=1)
    assert loaded(run).digest == first.snapshot_digest


def test_copies_in_a_new_archive_are_packed_once(run: RunFile, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "archive" / "Doe-01.csv", tmp_path / "archive" / "Doe-07.csv")
    summary = packed(run)
    changes(summary, new=5, copied=1)
    assert summary.counts["packed"] == 5 * ROWS


def test_large_copies_and_renamed_files_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for n in range(3):
        noise = np.random.default_rng(n).integers(0, 1000, (90, 90, 90)).astype(np.int16)
        write_nifti(tmp_path / "archive" / f"{n}.nii", array=noise)
    shutil.copy(tmp_path / "archive" / "0.nii", tmp_path / "archive" / "copy.nii")
    run = run_file(tmp_path, shape=[8, 8, 8])
    changes(packed(run), new=3, copied=1)
    (tmp_path / "archive" / "1.nii").rename(tmp_path / "archive" / "renamed.nii")
    os.utime(tmp_path / "archive" / "2.nii", ns=(1, 10**18))
    changes(packed(run), same=2, renamed=1, copied=1)
    assert loaded(run).generation == 1


def test_two_different_copies_that_become_equal_are_one_scan(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    write(tmp_path, 1, seed=0)
    summary = packed(run)
    changes(summary, same=4, copied=1)
    assert summary.counts["packed"] == len(samples(run)) == 4 * ROWS
    changes(packed(run), same=4, copied=1)


@pytest.mark.parametrize("removed", ["keep", "drop"])
def test_removed_sources_are_reported_and_dropped_where_asked(run: RunFile, tmp_path: Path, removed: str) -> None:
    packed(run)
    path = tmp_path / "archive" / "Doe-00.csv"
    whole = path.read_bytes()
    path.unlink()
    run = run.model_copy(update={"data": run.data.model_copy(update={"removed": removed})})
    summary = packed(run)
    changes(summary, same=4, removed=1)
    left = 5 if removed == "keep" else 4
    assert summary.counts["packed"] == len(samples(run)) == left * ROWS
    path.write_bytes(whole)
    back = packed(run)
    changes(back, **({"same": 5} if removed == "keep" else {"same": 4, "new": 1}))
    assert back.counts["packed"] == len(samples(run)) == 5 * ROWS


def test_dropping_a_whole_record_does_not_bring_it_back(run: RunFile, tmp_path: Path) -> None:
    run = run.model_copy(update={"data": run.data.model_copy(update={"removed": "drop"})})
    packed(run)
    for n in range(3):
        (tmp_path / "archive" / f"Doe-{n:02}.csv").unlink()
    for _ in range(3):
        summary = packed(run)
        assert summary.counts["packed"] == len(samples(run)) == 2 * ROWS
        assert summary.counts["sources"] == 2
        write(tmp_path, 3, seed=100 + loaded(run).generation)


def test_a_changed_source_beside_one_that_was_removed_costs_nothing_else(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    before = samples(run)
    (tmp_path / "archive" / "Doe-00.csv").unlink()
    write(tmp_path, 1, seed=50)
    summary = packed(run)
    changes(summary, same=3, changed=1, removed=1)
    after = samples(run)
    assert after.keys() == before.keys()
    assert sum(after[key] != before[key] for key in before) == ROWS


def test_only_changed_sources_are_read(run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(run)
    write(tmp_path, 1, seed=50)
    read: list[str] = []
    copy = source_files.local_copy
    monkeypatch.setattr(source_files, "local_copy", lambda uri, *parts: read.append(uri) or copy(uri, *parts))
    packed(run)
    assert read == [str(tmp_path / "archive" / "Doe-01.csv")]


def require_repairable(run: RunFile, *, indexes: bool = False) -> None:
    """Damage every shard, or index, of the newest snapshot: repair makes all of them again, byte for byte."""
    store, snapshot = ObjectStore(run.storage), loaded(run)
    before = objects(store)
    shards = [shard for shards in snapshot.splits.values() for shard in shards]
    for shard in shards:
        store.write(shard.index_uri if indexes else shard.uri, b"damaged")
    assert repair_shards(run, snapshot, {shard.uri for shard in shards}, map_here, ALONE) == []
    assert objects(store) == before


def test_repair_packs_renamed_and_changed_sources_and_what_stays_beside_them(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    write(tmp_path, 1, seed=50)
    (tmp_path / "archive" / "Doe-04.csv").rename(tmp_path / "archive" / "A.csv")
    packed(run)
    require_repairable(run)


def test_repair_of_what_stays_needs_no_source_that_was_dropped(run: RunFile, tmp_path: Path) -> None:
    """Shards that stay as they are belong to the superseded record too."""
    run = run.model_copy(update={"data": run.data.model_copy(update={"shard_scans": 1, "removed": "drop"})})
    for n in range(5, 18):
        write(tmp_path, n)
    packed(run)
    for n in range(2, 18, 3):
        (tmp_path / "archive" / f"Doe-{n:02}.csv").unlink()
    changes(packed(run), same=12, removed=6)
    require_repairable(run)


def test_repair_finds_renamed_sources_in_the_order_in_which_they_were_packed(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    (tmp_path / "archive" / "Doe-00.csv").rename(tmp_path / "archive" / "Roe.csv")
    packed(run)
    write_ecg_csv(tmp_path / "archive" / "Roe.csv", rows=ROWS, seed=70)
    write(tmp_path, 1, seed=71)
    changes(packed(run), same=3, changed=2)
    require_repairable(run)


class Killed(BaseException):
    """What stands for kill -9."""


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_killed_while_superseding_and_run_again_it_is_as_if_uninterrupted(
    run: RunFile, tmp_path: Path, tasks: int
) -> None:
    packed(run)
    write(tmp_path, 1, seed=50)
    left = tasks

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        nonlocal left
        for item in items:
            if left == 0:
                raise Killed
            left -= 1
            yield from map_here(task, [item])
        if left == 0:
            raise Killed

    with pytest.raises(Killed):
        pack(run, fan_out, lambda progress: None)
    assert loaded(run).generation == 1
    written = set(objects(ObjectStore(run.storage)))
    seen: list[ProgressReport] = []
    assert pack(run, map_here, seen.append).new_sources == (1 if tasks < 2 else 0)
    size = sum(file.stat().st_size for file in (tmp_path / "archive").iterdir())
    left = (tmp_path / "archive" / "Doe-01.csv").stat().st_size if tasks < 2 else 0
    assert (seen[0].size, seen[-1].size) == ((size - left, size), (size, size))
    assert samples(run) == afresh(run, tmp_path)
    assert written <= set(objects(ObjectStore(run.storage)))


def test_a_file_that_changes_again_before_the_rerun_is_packed_as_it_is_then(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    write(tmp_path, 1, seed=50)

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        yield from map_here(task, items)
        if hasattr(items[0], "sources"):
            raise Killed

    with pytest.raises(Killed):
        pack(run, fan_out, lambda progress: None)
    write(tmp_path, 1, seed=51)
    packed(run)
    assert samples(run) == afresh(run, tmp_path)


def test_a_data_set_of_an_earlier_version_takes_its_sources_as_they_are(run: RunFile, tmp_path: Path) -> None:
    first = packed(run)
    store = ObjectStore(run.storage)
    forget_states(store, run)
    (tmp_path / "private" / INVENTORY).unlink()
    summary = packed(run)
    changes(summary, same=5)
    assert summary.snapshot_digest == first.snapshot_digest
    write(tmp_path, 1, rows=ROWS + 1)  # from the first survey on, changes are seen
    (tmp_path / "archive" / "Doe-02.csv").rename(tmp_path / "archive" / "Roe.csv")
    changes(packed(run), same=3, changed=1, renamed=1)
    assert len(samples(run)) == 5 * ROWS + 1


def forget_states(store: ObjectStore, run: RunFile) -> None:
    """Write the pack records as versions without them did."""
    for record in read_packs(store, run.dataset):
        store.delete(record_path(run.dataset, record.name))
        write_pack(store, run.dataset, replace(record, states={}), ALONE)


def test_no_name_date_or_size_of_a_source_is_in_its_record(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    path = tmp_path / "archive" / "Doe-01.csv"
    told = [b"Doe", str(path.stat().st_mtime_ns).encode(), str(path.stat().st_size).encode() + b'"']
    for name, data in objects(ObjectStore(run.storage)).items():
        if "/packs/" in name:
            assert not [text for text in told if text in data]
    assert (tmp_path / "private" / INVENTORY).stat().st_mode & 0o077 == 0


def test_an_unchanged_archive_is_not_read(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(run)
    monkeypatch.setattr("medfuncta_dist.archive.survey.fetch_from", lambda uri: pytest.fail("read a source"))
    monkeypatch.setattr(archive_state, "digest_contents", lambda sources: pytest.fail("read") if sources else {})
    changes(packed(run), same=5)


def test_labels_of_a_table_that_an_earlier_version_packed_are_left_alone(tmp_path: Path) -> None:
    """Its records do not say which labels they have; its table cannot have been added later."""
    (tmp_path / "archive").mkdir()
    write(tmp_path, 1)
    (tmp_path / "table").write_text("source,group,class\nDoe-01.csv,p,1\n")
    run = run_file(tmp_path, group={"table": str(tmp_path / "table"), "label": "class"})
    first = packed(run)
    store = ObjectStore(run.storage)
    [record] = read_packs(store, run.dataset)
    assert record.told
    write_pack(store, run.dataset, replace(record, told={}), ALONE)
    assert packed(run).snapshot_digest == first.snapshot_digest
    write_pack(store, run.dataset, record, ALONE)
    (tmp_path / "table").write_text("source,group,class\nDoe-01.csv,p,2\n")
    changes(packed(run), changed=1)
