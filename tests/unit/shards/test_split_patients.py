from __future__ import annotations

import csv
import io
import json
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunChangedError, RunFileError, ScanError
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.scans.canonical import split_of
from medfuncta_dist.scans.patient_group import Group, group_in_path, group_of
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.data_contract import SplitsBy
from medfuncta_dist.shards.shard_index import IndexRow, index_table
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.shards.split_patients import (
    GROUP,
    PatientTally,
    ShardGroups,
    SplitPatients,
    groups_in,
    require_apart,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.scans.archive import declared
from tests.unit.shards.samples import key_of, objects, run_file
from tests.writers import write_dicom, write_medmnist, write_nifti, write_png

KEYS = KeyMaker(bytes(32))
SALT = "5a" * 32
"""With it, neither half of eight patients is empty; with one salt in 128, all would be in one split."""
HALVES = {"train": 0.5, "test": 0.5}


def write_patient(folder: Path, patient: int, scans: int = 3) -> None:
    """DICOM files whose names say nothing; their patient is in the header."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(scans):
        path = write_dicom(folder / f"im{10 * patient + number:04}.dcm", (8, 8), seed=10 * patient + number)
        change(path, PatientID=f"MRN{patient}", StudyInstanceUID=f"1.2.{patient}.{number}")


def change(path: Path, **attributes: str) -> None:
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def placed(run: RunFile, private: Path) -> dict[str, set[str]]:
    """File → its scans' splits, from what is in storage and the owner's mapping."""
    store, uris = ObjectStore(run.storage), {row.key: row.uri for row in read_mapping(private)}
    found = defaultdict(set)
    for split, shards in load_snapshot(store, run.dataset, None).splits.items():
        for shard in shards:
            for key in read_index(store, shard)["key"].to_pylist():
                found[Path(uris[key]).name].add(split)
    return dict(found)


def patients_apart(places: dict[str, set[str]]) -> int:
    """How many of the patients of ``write_patient`` are in one split."""
    splits = defaultdict(set)
    for name, found in places.items():
        splits[int(name[2:6]) // 10] |= found
    return sum(len(found) == 1 for found in splits.values())


def small(tmp_path: Path, **data: Any) -> RunFile:
    return run_file(tmp_path, shape=[8, 8], **({"fractions": HALVES} | data))


def test_all_scans_of_a_patient_are_in_one_split_and_later_ones_join_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFUNCTA_SALT", SALT)
    for patient in range(8):
        write_patient(tmp_path / "archive", patient)
    run = small(tmp_path, sources_per_task=5)
    first = packed(run)
    before = placed(run, tmp_path / "private")
    assert patients_apart(before) == 8
    assert first.patients == SplitPatients(8, 0, {"patient": 24})
    assert first.splits_by is SplitsBy.PATIENT
    assert set(first.splits) == set(HALVES)
    write_patient(tmp_path / "archive" / "later", 3, scans=6)
    for number in range(3):  # these have the paths of earlier files' siblings; only three of the six are new
        (tmp_path / "archive" / "later" / f"im{30 + number:04}.dcm").unlink()
    again = packed(run)
    after = placed(run, tmp_path / "private")
    assert {name: after[name] for name in before} == before
    assert (len(after), patients_apart(after)) == (27, 8)
    assert again.patients == SplitPatients(8, 0, {"patient": 27})


def test_by_source_each_scan_is_placed_by_itself(tmp_path: Path) -> None:
    for patient in range(8):
        write_patient(tmp_path / "archive", patient)
    run = small(tmp_path, group="source")
    summary = packed(run)
    assert (summary.splits_by, summary.patients) == (SplitsBy.SOURCE, None)
    assert patients_apart(placed(run, tmp_path / "private")) < 8


def test_nothing_stored_tells_the_patient(tmp_path: Path) -> None:
    write_patient(tmp_path / "archive", 4711)
    run = small(tmp_path)
    packed(run)
    assert not [
        path for path, data in objects(ObjectStore(run.storage)).items() if b"MRN4711" in data or b"mrn4711" in data
    ]


def test_scans_of_nobody_stay_together_by_examination(tmp_path: Path) -> None:
    write_patient(tmp_path / "archive", 1)
    for path in (tmp_path / "archive").iterdir():
        change(path, PatientID="ANONYMOUS", StudyInstanceUID="1.2.3")
    assert packed(small(tmp_path)).patients == SplitPatients(1, 0, {"study": 3})


def test_an_older_data_set_goes_on_as_it_was(tmp_path: Path) -> None:
    """A data set of an earlier version is one by source: its contract has no such key."""
    write_patient(tmp_path / "archive", 1)
    packed(small(tmp_path, group="source"))
    write_patient(tmp_path / "archive" / "new", 2)
    open_run = small(tmp_path)
    assert open_run.data.group is None
    summary = packed(open_run)
    assert (summary.splits_by, summary.patients, summary.new_sources) == (SplitsBy.SOURCE, None, 3)
    with pytest.raises(RunChangedError, match=r"data\.group: patient in the run file, source in the data set"):
        packed(small(tmp_path, group="patient"))


def test_a_new_data_set_keeps_the_way_it_was_begun(tmp_path: Path) -> None:
    write_patient(tmp_path / "archive", 1)
    packed(small(tmp_path))
    with pytest.raises(RunChangedError, match=r"data\.group: source in the run file, patient in the data set"):
        packed(small(tmp_path, group="source"))
    with pytest.raises(RunChangedError, match=r"data\.group: \{'path': '\w{16}'\} in the run file"):
        packed(small(tmp_path, group={"path": r"im(\d{3})"}))
    assert packed(small(tmp_path, group="patient")).new_sources == 0


def test_a_rule_for_paths(tmp_path: Path) -> None:
    for patient in range(6):
        write_patient(tmp_path / "archive", patient)
    run = small(tmp_path, group={"path": r"im(\d{3})\d\.dcm$"})
    assert packed(run).patients == SplitPatients(6, 0, {"path": 18})
    assert patients_apart(placed(run, tmp_path / "private")) == 6
    with pytest.raises(
        RunChangedError, match=r"made by a path in data\.group or data\.table, and the run file gives none"
    ):
        packed(small(tmp_path))
    with pytest.raises(RunFileError, match=r"3 of 18 sources have a path in which data\.group\.path finds no patient"):
        packed(small(tmp_path, group={"path": r"im(00[1-9])\d\.dcm$"}))


def write_table(tmp_path: Path, rows: Sequence[Sequence[str]]) -> str:
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_a_table_of_patients(tmp_path: Path) -> None:
    for patient in range(6):
        write_patient(tmp_path / "archive", patient)
    names = sorted(path.name for path in (tmp_path / "archive").iterdir())
    rows = [("source", "group"), *((name, name[2:5]) for name in names), ("gone.dcm", "x")]
    run = small(tmp_path, group={"table": write_table(tmp_path, rows)})
    summary = packed(run)
    assert (summary.patients, summary.unused_rows) == (SplitPatients(6, 0, {"table": 18}), 1)
    assert summary.splits_by is SplitsBy.RULE
    assert patients_apart(placed(run, tmp_path / "private")) == 6


def test_patients_in_several_given_splits_are_counted_and_the_splits_stay(tmp_path: Path) -> None:
    for patient in range(4):
        write_patient(tmp_path / "archive", patient)
    files = sorted((tmp_path / "archive").iterdir())
    for path in files:
        split = "test" if path.name in ("im0002.dcm", "im0010.dcm", "im0011.dcm", "im0012.dcm") else "train"
        (tmp_path / split).mkdir(exist_ok=True)
        path.rename(tmp_path / split / path.name)
    given = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    summary = packed(small(tmp_path, source=None, splits=given))
    assert summary.splits == {"train": 8, "test": 4}
    assert summary.patients == SplitPatients(4, 1, {"patient": 12})  # patient 0; 1 is whole in test
    assert summary.splits_by is SplitsBy.GIVEN


def test_splits_given_by_the_table(tmp_path: Path) -> None:
    write_patient(tmp_path / "archive", 1)
    rows = [("source", "group", "split"), ("im0010.dcm", "a", "test"), ("im0011.dcm", "a", "train")]
    rows.append(("im0012.dcm", "b", "train"))
    run = small(tmp_path, group={"table": write_table(tmp_path, rows), "split": "split"})
    summary = packed(run)
    assert (summary.splits, summary.splits_by) == ({"test": 1, "train": 2}, SplitsBy.GIVEN)
    assert summary.patients == SplitPatients(2, 1, {"table": 3})


def test_labels_of_the_table_are_in_the_samples(tmp_path: Path) -> None:
    write_patient(tmp_path / "archive", 1)
    rows = [("source", "group", "class"), *((f"im001{n}.dcm", "a", f"{n} 7") for n in range(3))]
    run = small(tmp_path, group={"table": write_table(tmp_path, rows), "label": "class"})
    packed(run)
    store = ObjectStore(run.storage)
    [shards] = load_snapshot(store, run.dataset, None).splits.values()
    with tarfile.open(fileobj=io.BytesIO(store.read(shards[0].uri))) as tar:
        found = [json.load(tar.extractfile(m))["labels"] for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert sorted(found) == [[0, 7], [1, 7], [2, 7]]


def test_the_splits_of_an_npz_stay_its_own(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_medmnist(tmp_path / "archive" / "case_1.npz", counts={"train": 3, "test": 2})
    summary = packed(small(tmp_path))
    assert summary.splits == {"train": 3, "test": 2}
    assert summary.patients == SplitPatients(0, 0, {"file": 5})
    assert summary.empty_splits == []


def test_slabs_part_a_volume_as_before_and_nobody_counts_patients(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_nifti(tmp_path / "archive" / "sub-01.nii.gz", shape=(8, 8, 12))
    summary = packed(small(tmp_path, slices={}, slabs={"size": 3, "period": 3, "gap": 1}))
    assert (summary.splits_by, summary.patients) == (SplitsBy.SLABS, None)
    assert summary.splits == {"gap": 2, "test": 3, "train": 7}


def test_slices_of_a_patient_s_volumes_stay_together(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for subject in range(6):
        for session in range(2):
            name = f"sub-{subject}_ses-{session}.nii.gz"
            write_nifti(tmp_path / "archive" / name, shape=(8, 8, 4), seed=2 * subject + session)
    run = small(tmp_path, slices={})
    assert packed(run).patients == SplitPatients(6, 0, {"bids": 48})
    places = placed(run, tmp_path / "private")
    assert all(len(places[f"sub-{n}_ses-0.nii.gz"] | places[f"sub-{n}_ses-1.nii.gz"]) == 1 for n in range(6))


def test_a_split_without_a_patient_is_named(tmp_path: Path) -> None:
    write_patient(tmp_path / "archive", 1)
    assert packed(small(tmp_path)).empty_splits in (["test"], ["train"])


def table(*groups: str) -> Any:
    rows = [IndexRow(key_of(i), "s", "", 1, 1, 1, 1, 1, 1, g, "patient" if g else "scan") for i, g in enumerate(groups)]
    return groups_in(index_table(rows, grouped=True))


def test_patients_are_counted_over_all_shards() -> None:
    a, b, c = map(key_of, "abc")
    tally = PatientTally()
    for split, groups in (("train", (a, b, "")), ("train", (a,)), ("test", (c, "")), ("test", (b,))):
        tally.add(split, table(*groups))
    assert tally.result() == SplitPatients(3, 1, {"patient": 5, "scan": 2})


def test_memory_holds_patients_and_not_scans() -> None:
    tally = PatientTally()
    rng = np.random.default_rng(0)
    names = [key_of(n) for n in range(50)]
    for _ in range(3000):
        tally.add("train", table(*rng.choice(names, 40)))
    assert sum(map(len, tally._parts["train"])) < 2**16 + 50
    assert tally.result().patients == 50


def test_many_small_shards_are_added_in_linear_time() -> None:
    tally = PatientTally()
    shards = [ShardGroups(np.array([n.to_bytes(16, "big")], GROUP), {"patient": 1}) for n in range(1, 60_001)]
    began = time.monotonic()
    for shard in shards:
        tally.add("train", shard)
    assert time.monotonic() - began < 5  # summing all parts each time took minutes
    assert tally.result() == SplitPatients(60_000, 0, {"patient": 60_000})


def test_an_index_without_groups_has_none() -> None:
    assert groups_in(index_table([IndexRow(key_of(0), "s", "", 1, 1, 1, 1, 1, 1)])) is None


def test_a_patient_in_several_splits_is_an_error_unless_the_splits_were_given() -> None:
    found = SplitPatients(9, 2)
    require_apart(found, {"group": "patient", "splits": ["test", "train"]}, "here")
    require_apart(SplitPatients(9, 0), {"group": "patient"}, "here")
    with pytest.raises(IntegrityError, match="2 of 9 patients are in several splits"):
        require_apart(found, {"group": "patient"}, "here")


SCANS = st.lists(
    st.tuples(
        st.sampled_from([None, "1", "2", "3", "P-4", "P-5"]),  # the file's own patient
        st.sampled_from(["sub-1/", "sub-2/x/", "imagesTr/c_0001.", "imagesTr/c_0002.", "patient7/", "a/", "b/"]),
        st.sampled_from([None, "study 1", "study 2"]),
    ),
    max_size=30,
)
ONE = ScanError("not read here")


def assigned(scans: Sequence[tuple[str | None, str, str | None]]) -> list[tuple[Group, str]]:
    data, found = declared([8, 8], fractions={"train": 0.4, "val": 0.3, "test": 0.3}), []
    for number, (patient, folder, study) in enumerate(scans):
        relative = f"{folder}{number}"
        known = group_in_path(relative, f"/x/{relative}", KEYS)
        group = group_of(Found("", None, ONE, group=patient, study=study), known, data, KEYS)
        assert group is not None
        found.append((group, split_of(group.key or KEYS.scan_key(relative, ""), None, None, data)))
    return found


@given(SCANS, SCANS)
@settings(max_examples=200)
def test_no_group_is_in_two_splits_and_later_scans_move_none(first: Any, later: Any) -> None:
    alone, together = assigned(first), assigned(first + later)
    assert together[: len(first)] == alone
    splits = defaultdict(set)
    for group, split in together:
        splits[group.key].add(split)
    assert all(len(found) == 1 for key, found in splits.items() if key)


@given(archive=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=14, unique=True))
@settings(max_examples=8, deadline=None)
def test_random_archives_are_packed_with_no_patient_in_two_splits(tmp_path_factory: Any, archive: Any) -> None:
    folder = tmp_path_factory.mktemp("archive")
    half = len(archive) // 2 + 1
    moved: dict[str, set[str]] = {}
    for part in (archive[:half], archive[half:]):
        for patient, number in part:
            (folder / "archive" / f"patient_{patient}").mkdir(parents=True, exist_ok=True)
            write_png(folder / "archive" / f"patient_{patient}" / f"{patient}-{number}.png", (8, 8), seed=number)
        summary = packed(small(folder))
        assert summary.patients is not None
        assert summary.patients.in_several_splits == 0
        places = placed(small(folder), folder / "private")
        assert moved.items() <= places.items()
        moved = places
    splits = defaultdict(set)
    for name, found in moved.items():
        splits[name.partition("-")[0]] |= found
    assert all(len(found) == 1 for found in splits.values())
