"""The owner's table joined to whole archives: by path, UID, patient or key, and what does not match."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunChangedError, RunFileError
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.packing.sources.copy_conflicts import FILE as CONFLICTS
from medfuncta_dist.shards.data_contract import SplitsBy
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.shards.split_patients import SplitPatients
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.packing.repairs import require_same_after_repair
from tests.unit.scans.archive import edited
from tests.unit.shards.samples import objects, run_file
from tests.writers import write_dicom, write_medmnist, write_nifti, write_png, write_series

Rows = Sequence[Sequence[object]]


def write_table(tmp_path: Path, columns: Sequence[str], rows: Rows, suffix: str = ".csv") -> str:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=list(columns)), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=";" if suffix == ".semicolon" else ",").writerows([columns, *rows])
    return str(path)


def write_patients(tmp_path: Path, patients: int = 3, **elements: str) -> None:
    """Two series of one instance for each patient, in files whose names say nothing."""
    (tmp_path / "archive").mkdir(exist_ok=True)
    for n in range(2 * patients):
        path = write_dicom(tmp_path / "archive" / f"{n:02}.dcm", (8, 8), seed=n)
        uids = {
            "SeriesInstanceUID": f"1.2.3.{n}",
            "StudyInstanceUID": f"1.2.4.{n // 2}",
            "SOPInstanceUID": f"1.2.5.{n}",
        }
        edited(path, PatientID=f"MRN{n // 2}", **(uids | elements))


def small(tmp_path: Path, table: Mapping[str, object] | None = None, **data: Any) -> RunFile:
    return run_file(tmp_path, shape=[8, 8], **({"table": table} if table else {}), **data)


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def found(run: RunFile, private: Path) -> dict[str, tuple[str, list[int]]]:
    """Name of the file, and item → split and labels of each packed scan."""
    store, names, result = ObjectStore(run.storage), {row.key: row for row in read_mapping(private)}, {}
    for split, shards in load_snapshot(store, run.dataset, None).splits.items():
        for shard in shards:
            with tarfile.open(fileobj=io.BytesIO(store.read(shard.uri))) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        row = names[member.name.removesuffix(".json")]
                        labels = json.load(tar.extractfile(member))["labels"]  # type: ignore[arg-type]
                        # An image of a series is a file of its own: its item is made of its identifier.
                        name = Path(row.uri).name + ("" if row.item.startswith("image/") else row.item)
                        assert name not in result
                        result[name] = (split, labels)
    return result


BY = {
    "path": ("file", [f"{n:02}.dcm" for n in range(6)]),
    "series": ("SeriesInstanceUID", [f"1.2.3.{n}" for n in range(6)]),
    "instance": ("SOPInstanceUID", [f"1.2.5.{n}" for n in range(6)]),
    "study": ("StudyInstanceUID", [f"1.2.4.{n // 2}" for n in range(0, 6, 2)]),
    "patient": ("PatientID", [f"mrn{n}" for n in range(3)]),
}


@pytest.mark.parametrize("suffix", [".csv", ".semicolon", ".parquet"])
@pytest.mark.parametrize("by", BY)
def test_patients_splits_and_labels_by_what_the_rows_are_about(tmp_path: Path, by: str, suffix: str) -> None:
    write_patients(tmp_path)
    column, names = BY[by]
    each = 6 // len(names)
    rows = [(name, f"p{n * each // 2}", "test" if n * each > 3 else "train", n) for n, name in enumerate(names)]
    table = write_table(tmp_path, [column, "who", "fold", "class"], [*rows, ("other", "p9", "test", 0)], suffix)
    rule = {"path": table, "by": by, "column": column, "group": "who", "split": "fold", "label": "class"}
    summary = packed(small(tmp_path, rule))
    expected = {f"{n:02}.dcm": ("test" if n > 3 else "train", [n // each]) for n in range(6)}
    assert found(small(tmp_path, rule), tmp_path / "private") == expected
    assert (summary.unused_rows, summary.without_row) == (1, 0)
    assert summary.patients == SplitPatients(3, 0, {"table": 6})
    assert summary.splits_by is SplitsBy.GIVEN
    for path, data in objects(ObjectStore(str(tmp_path / "store"))).items():
        assert not any(text in data.lower() for text in (b"1.2.3.", b"1.2.4.", b"1.2.5.", b"mrn", b"table.")), path


def test_an_issuer_is_part_of_a_patient_s_name(tmp_path: Path) -> None:
    write_patients(tmp_path, 1, IssuerOfPatientID="North")
    rule = {"path": write_table(tmp_path, ["patient", "of", "class"], [("MRN0", "NORTH", 3), ("MRN0", "South", 4)])}
    rule |= {"by": "patient", "issuer": "of", "label": "class"}
    assert packed(small(tmp_path, rule)).unused_rows == 1
    assert set(map(str, found(small(tmp_path, rule), tmp_path / "private").values())) <= {
        f"('{split}', [3])" for split in ("train", "val", "test")
    }


def test_patients_of_folders(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / "archive" / f"sub-{n}").mkdir(parents=True)
        write_png(tmp_path / "archive" / f"sub-{n}" / f"{n}.png", (8, 8), seed=n)
    rows = [("sub-0", 1), ("1", 0), ("sub-2", 1)]
    rule = {"path": write_table(tmp_path, ["participant_id", "group"], rows, ".csv"), "label": "group"}
    rule |= {"by": "patient", "column": "participant_id"}
    packed(small(tmp_path, rule))
    labels = {name: labels for name, (_, labels) in found(small(tmp_path, rule), tmp_path / "private").items()}
    assert labels == {"0.png": [1], "1.png": [0], "2.png": [1]}


def test_what_does_not_match_is_counted_both_ways(tmp_path: Path) -> None:
    write_patients(tmp_path)
    path = write_table(tmp_path, ["series", "class"], [("1.2.3.0", 1), ("1.2.3.1", 0), ("1.9", 0), ("1.8", 1)])
    rule: dict[str, object] = {"path": path, "by": "series", "label": "class"}
    with pytest.raises(
        RunFileError, match="4 of 6 sources have no row in the table, and 2 rows of it name no"
    ) as caught:
        packed(small(tmp_path, rule))
    assert "1.2.3" not in str(caught.value)
    kept = small(tmp_path, rule | {"without_row": "keep"})
    preview = preview_pack(kept, lambda done, total: None)
    assert (preview.without_row, preview.unused_rows) == (4, 2)
    summary = packed(kept)
    assert (summary.without_row, summary.unused_rows) == (4, 2)
    labels = {name: labels for name, (_, labels) in found(kept, tmp_path / "private").items()}
    assert labels == {"00.dcm": [1], "01.dcm": [0]} | {f"{n:02}.dcm": [] for n in range(2, 6)}


def test_a_file_that_has_no_series_is_quarantined_by_itself(tmp_path: Path) -> None:
    write_patients(tmp_path)
    write_png(tmp_path / "archive" / "x.png", (8, 8))
    rows = [(f"1.2.3.{n}", "train") for n in range(6)]
    rule = {"path": write_table(tmp_path, ["series", "split"], rows), "by": "series", "split": "split"}
    summary = packed(small(tmp_path, rule))
    assert [entry["reason"] for entry in summary.quarantined] == ["data.table has no row for it"]
    assert summary.splits == {"train": 6}


def test_labels_that_change_are_packed_again_and_nothing_else(tmp_path: Path) -> None:
    write_patients(tmp_path)
    rows = [[f"{n:02}.dcm", n % 2] for n in range(6)]
    plain = small(tmp_path, sources_per_task=4)
    first = packed(plain)
    rule = {"path": write_table(tmp_path, ["path", "class"], rows), "label": "class"}
    run = small(tmp_path, rule, sources_per_task=4)
    added = packed(run)  # labels that come later
    assert (added.changes["changed"], added.counts) == (6, first.counts)
    assert {labels[0] for _, labels in found(run, tmp_path / "private").values()} == {0, 1}
    before = found(run, tmp_path / "private")
    assert packed(run).snapshot_digest == added.snapshot_digest
    rows[4][1] = 7
    write_table(tmp_path, ["path", "class"], rows)
    assert preview_pack(run, lambda done, total: None).to_read == 1
    changed = packed(run)
    assert (changed.changes["changed"], changed.changes["same"]) == (1, 5)
    split, _ = before["04.dcm"]
    assert found(run, tmp_path / "private") == before | {"04.dcm": (split, [7])}
    assert load_snapshot(ObjectStore(run.storage), run.dataset, None).parent == added.snapshot_digest
    assert packed(run).snapshot_digest == changed.snapshot_digest
    assert packed(plain).changes["changed"] == 6  # and without a table there are none again
    assert {str(labels) for _, labels in found(plain, tmp_path / "private").values()} == {"[]"}


def test_a_split_or_patient_that_changes_moves_the_scan(tmp_path: Path) -> None:
    write_patients(tmp_path)
    rows = [[f"1.2.3.{n}", f"p{n // 2}", "train"] for n in range(6)]
    rule = {"path": write_table(tmp_path, ["series", "who", "fold"], rows), "by": "series"}
    run = small(tmp_path, rule | {"group": "who", "split": "fold"})
    packed(run)
    for row in rows[:2]:
        row[2] = "test"
    rows[5][1] = "p0"
    write_table(tmp_path, ["series", "who", "fold"], rows)
    summary = packed(run)
    assert (summary.changes["changed"], summary.splits) == (3, {"test": 2, "train": 4})
    assert summary.patients == SplitPatients(3, 1, {"table": 6})
    with pytest.raises(RunChangedError, match="data"):
        packed(small(tmp_path, rule | {"group": "who"}))
    with pytest.raises(RunChangedError, match="data"):
        packed(small(tmp_path))


def test_copies_of_which_the_table_says_other_things(tmp_path: Path) -> None:
    write_patients(tmp_path)
    for n in (0, 1):
        (tmp_path / "archive" / f"copy{n}.dcm").write_bytes((tmp_path / "archive" / f"0{n}.dcm").read_bytes())
    rows = [[f"{n:02}.dcm", f"p{n // 2}", "train", 0] for n in range(6)]
    rows += [["copy0.dcm", "p0", "test", 1], ["copy1.dcm", "p0", "train", 0]]
    rule = {"path": write_table(tmp_path, ["path", "who", "fold", "class"], rows)}
    rule |= {"group": "who", "split": "fold", "label": "class"}
    message = "different rows for 1 files and others with the same bytes: 1 would be in another split, 0 another "
    with pytest.raises(RunFileError, match=message) as caught:
        packed(small(tmp_path, rule, series="file"))
    assert "copy0" not in str(caught.value)
    assert "copy0.dcm,00.dcm" in (tmp_path / "private" / CONFLICTS).read_text()
    run = small(tmp_path, rule | {"copies": "first"}, series="file")
    summary = packed(run)
    assert (summary.copy_conflicts.splits, summary.copy_conflicts.labels, summary.changes["copied"]) == (1, 1, 2)
    assert found(run, tmp_path / "private")["00.dcm"] == ("train", [0])
    rows[6] = ["copy0.dcm", "p0", "train", 0]
    write_table(tmp_path, ["path", "who", "fold", "class"], rows)
    assert not packed(small(tmp_path, rule, series="file")).copy_conflicts
    assert not (tmp_path / "private" / CONFLICTS).exists()


def test_of_copies_in_one_series_the_row_of_the_first_counts(tmp_path: Path) -> None:
    """In the order of paths."""
    volume = np.arange(8 * 8 * 3, dtype=np.int16).reshape(8, 8, 3)
    paths = write_series(tmp_path / "archive", volume, folders=1)
    paths[0].with_name("copy").write_bytes(paths[0].read_bytes())  # after IM…
    rows = [[str(path.relative_to(tmp_path / "archive")), "p", "train", 3] for path in paths]
    rows += [[str(paths[0].with_name("copy").relative_to(tmp_path / "archive")), "other", "test", 4]]
    rule = {"path": write_table(tmp_path, ["path", "who", "fold", "class"], rows)}
    rule |= {"group": "who", "split": "fold", "label": "class"}
    with pytest.raises(RunFileError, match="1 DICOM series have files that the run file assigns to different splits"):
        packed(run_file(tmp_path, shape=[8, 8, 3], table=rule))
    run = run_file(tmp_path, shape=[8, 8, 3], table=rule | {"copies": "first"})
    summary = packed(run)
    assert (summary.counts["packed"], summary.splits) == (1, {"train": 1})
    [(split, labels)] = found(run, tmp_path / "private").values()
    assert (split, labels) == ("train", [3])
    assert packed(run).snapshot_digest == summary.snapshot_digest


def test_copies_in_several_given_splits_are_told(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for n in range(3):
            write_png(tmp_path / split / f"{split}{n}.png", (8, 8), seed=n if n else len(split))
    given = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    summary = packed(small(tmp_path, source=None, splits=given))
    assert (summary.changes["copied"], summary.copy_conflicts.splits) == (2, 2)


def test_labels_by_the_keys_of_scans(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_medmnist(tmp_path / "archive" / "a.npz", (8, 8), {"train": 6, "test": 4})
    write_png(tmp_path / "archive" / "b.png", (8, 8))
    first = small(tmp_path)
    packed(first)
    mapping = read_mapping(tmp_path / "private")
    rows = [(row.key, n % 3) for n, row in enumerate(mapping) if row.item != "test/0"]
    rule = {"path": write_table(tmp_path, ["key", "class"], rows), "by": "key", "label": "class"}
    run = small(tmp_path, rule)
    summary = packed(run)
    assert (summary.unused_rows, summary.without_row) == (0, 0)
    told = {f"{Path(row.uri).name}{row.item}": n % 3 for n, row in enumerate(mapping)}
    got = {name: labels for name, (_, labels) in found(run, tmp_path / "private").items()}
    assert got.pop("a.npztest/0", None) is None  # its row is missing
    assert got == {name: [label] for name, label in told.items() if name != "a.npztest/0"}
    assert [entry["reason"] for entry in summary.quarantined] == ["data.table has no row for it"]
    kept = small(tmp_path, rule | {"without_row": "keep"})
    assert packed(kept).changes["changed"] == 0


def test_a_copy_and_a_renamed_file_need_no_key_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_medmnist(tmp_path / "archive" / "b.npz", (8, 8), {"train": 3})
    packed(small(tmp_path))
    rows = [(row.key, n) for n, row in enumerate(read_mapping(tmp_path / "private"))]
    rule = {"path": write_table(tmp_path, ["key", "class"], rows), "by": "key", "label": "class"}
    run = small(tmp_path, rule)
    first = packed(run)
    (tmp_path / "archive" / "a.npz").write_bytes((tmp_path / "archive" / "b.npz").read_bytes())
    copied = packed(run)
    assert (copied.changes["copied"], copied.without_row) == (1, 0)
    assert copied.snapshot_digest == first.snapshot_digest
    (tmp_path / "archive" / "b.npz").unlink()
    renamed = packed(run)
    assert (renamed.changes["renamed"], renamed.without_row, renamed.unused_rows) == (1, 0, 0)
    assert renamed.snapshot_digest == first.snapshot_digest


def test_slices_of_a_volume_have_labels_of_their_own_and_one_split(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_nifti(tmp_path / "archive" / "a.nii.gz", shape=(8, 8, 4))
    packed(small(tmp_path, slices={}, dataset="before"))
    mapping = read_mapping(tmp_path / "private")
    rows = [[row.key, "test", n] for n, row in enumerate(mapping)]
    rule = {
        "path": write_table(tmp_path, ["key", "fold", "class"], rows),
        "by": "key",
        "split": "fold",
        "label": "class",
    }
    run = small(tmp_path, rule, slices={})
    packed(run)
    expected = {f"a.nii.gz{row.item}": ("test", [n]) for n, row in enumerate(mapping)}
    assert found(run, tmp_path / "private") == expected
    rows[1][1] = "train"
    write_table(tmp_path, ["key", "fold", "class"], rows)
    with pytest.raises(RunFileError, match="puts slices of one volume into different splits"):
        packed(run)


def test_repair_packs_with_the_table(tmp_path: Path) -> None:
    write_patients(tmp_path)
    rows = [(f"1.2.3.{n}", f"p{n // 2}", n % 2) for n in range(6)]
    rule = {
        "path": write_table(tmp_path, ["series", "who", "class"], rows),
        "by": "series",
        "group": "who",
        "label": "class",
    }
    run = small(tmp_path, rule)
    packed(run)
    require_same_after_repair(run)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"table": {"path": "x"}}, "name at least one column"),
        ({"table": {"path": "x", "split": "s", "without_row": "keep"}}, "for a table of labels alone"),
        ({"table": {"path": "x", "group": "g"}, "group": "patient"}, "leave one of them out"),
        ({"table": {"path": "x", "label": "g"}, "group": {"table": "y"}}, "both tables"),
        ({"table": {"path": "x", "split": "g"}, "source": None, "splits": {"train": "y"}}, "both give the splits"),
        ({"table": {"path": "x", "split": "g"}, "slices": {}, "slabs": {}, "shape": [8, 8]}, "slabs part each volume"),
        ({"table": {"path": "x", "issuer": "g", "label": "l"}}, "needs by: patient"),
        ({"table": {"path": "x", "label": {"column": "l", "bins": [2, 1]}}}, "bins must rise"),
        ({"table": {"path": "x", "label": {"column": "l", "bins": [1], "categories": ["a"]}}}, "not both"),
        ({"table": {"path": "x", "label": {"column": "l", "categories": ["a", "a"]}}}, "a text twice"),
    ],
)
def test_run_files_that_say_two_things(data: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Data.model_validate({"source": "x", "shape": [8]} | data)


def test_identifiers_in_an_npz_are_refused_dropped_or_kept(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8)).astype(np.uint8)
    labels = np.array([[1, 123456789], [0, 5], [1, 6], [0, 7]])
    np.savez(tmp_path / "archive" / "a.npz", train_images=images, train_labels=labels)
    write_png(tmp_path / "archive" / "b.png", (8, 8))
    refused = packed(small(tmp_path, max_quarantined=1))
    assert {entry["reason"] for entry in refused.quarantined} == {
        "labels look like identifiers: whole numbers of seven digits or more"
    }
    assert refused.counts["quarantined"] == 4
    store = ObjectStore(str(tmp_path / "store"))
    assert not [path for path, data in objects(store).items() if b"123456789" in data]
    for way, expected in (("drop", []), ("keep", [1, 123456789])):
        run = small(tmp_path, dataset=way, identifying_labels=way, private=str(tmp_path / way))
        assert packed(run).counts["quarantined"] == 0
        assert found(run, tmp_path / way)["a.npztrain/0"][1] == expected


ARCHIVES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 7), st.booleans()), min_size=2, max_size=12, unique_by=lambda t: t[:2]
)


@given(archive=ARCHIVES, shuffle=st.randoms(use_true_random=False), by=st.sampled_from(["path", "series"]))
@settings(max_examples=12, deadline=None)
def test_no_patient_of_a_random_table_is_in_two_splits_whatever_comes_later(
    tmp_path_factory: Any, archive: list[tuple[int, int, bool]], shuffle: Any, by: str
) -> None:
    """Some files are copies of the patient's first one. Rows are in any order; the archive comes in two halves."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "archive").mkdir()
    half, placed = len(archive) // 2 + 1, {}
    rows: list[list[object]] = []
    for part in (archive[:half], archive[half:]):
        for patient, number, copy in part:
            seed = 100 * patient + (50 if copy else number)
            path = write_dicom(folder / "archive" / f"{shuffle.randrange(10**6)}-{len(rows)}.dcm", (8, 8), seed=seed)
            uid = f"1.2.{seed}"
            edited(path, SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.1", PatientID=f"X{number}")
            rows.append([path.name if by == "path" else uid, f"patient {patient}"])
        shuffle.shuffle(rows)
        table = write_table(folder, [by, "who"], rows)
        run = small(folder, {"path": table, "by": by, "group": "who"}, fractions={"train": 0.5, "test": 0.5})
        summary = packed(run)
        assert summary.patients is not None
        assert summary.patients.in_several_splits == 0
        now = {name: split for name, (split, _) in found(run, folder / "private").items()}
        assert placed.items() <= now.items()
        placed = now
    splits = defaultdict(set)
    store = ObjectStore(run.storage)
    for split, shards in load_snapshot(store, run.dataset, None).splits.items():
        for shard in shards:
            for group in read_index(store, shard)["group"].to_pylist():
                splits[group].add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) == len({patient for patient, _, _ in archive})
