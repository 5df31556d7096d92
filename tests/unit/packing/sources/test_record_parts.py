"""Files that belong to a WFDB record are no scans of their own, on a disk or in a bucket."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import NothingPackedError
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.sources.source_list import list_sources
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.shards.samples import objects, run_file
from tests.writers import PATIENT, write_ecg_csv, write_nifti_pair, write_wfdb

KEYS = KeyMaker(b"0" * 32)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two records, of which one has two segments; an annotation file and a table beside them."""
    folder = tmp_path / "archive"
    folder.mkdir()
    write_wfdb(folder / "100.hea", comments=[PATIENT])
    for number in (1, 2):
        write_wfdb(folder / f"s_000{number}.hea", seed=number)
    (folder / "p1.hea").write_text("p1/2 2 360 2000\ns_0001 1000\ns_0002 1000\n")
    (folder / "100.atr").write_bytes(b"annotations")
    write_ecg_csv(folder / "100.csv", rows=1)
    return folder


def run_of(tmp_path: Path, **data: object) -> RunFile:
    keys = {"shape": [1000], "channels": 2, "length": "windows", "max_quarantined": 1.0}
    return run_file(tmp_path, **(keys | data))


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


@pytest.mark.parametrize("reader", [None, "wfdb"])
def test_a_record_is_one_source_with_its_segments(tmp_path: Path, records: Path, reader: str | None) -> None:
    found = [source.path for source in list_sources(run_of(tmp_path, reader=reader).data, KEYS).sources]
    assert found == [*(["100.csv"] if reader is None else []), "100.hea", "p1.hea"]


def test_what_belongs_to_a_record_is_not_counted_among_foreign_files(tmp_path: Path, records: Path) -> None:
    (records / "report.pdf").write_bytes(b"%PDF")
    (records / "200.dat").write_bytes(b"1")
    found = list_sources(run_of(tmp_path).data, KEYS)
    assert [source.path for source in found.sources] == ["100.csv", "100.hea", "p1.hea"]
    assert found.aside == {"no reader takes .dat": 1, "no reader takes .pdf": 1}


def test_missing_samples_are_refused_or_background(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_wfdb(tmp_path / "archive" / "100.hea", missing=range(100, 120))
    with pytest.raises(NothingPackedError, match=r"not finite \(data\.non_finite: background takes"):
        packed(run_of(tmp_path))
    assert packed(run_of(tmp_path, non_finite="background")).counts["packed"] == 1


def test_names_like_segments_are_records_where_no_header_lists_them(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for name in ("a_0001", "a_0002", "b"):
        write_wfdb(tmp_path / "archive" / f"{name}.hea")
    assert len(list_sources(run_of(tmp_path).data, KEYS).sources) == 3


def test_signal_files_without_a_header_are_refused_as_before(tmp_path: Path, records: Path) -> None:
    (records / "200.dat").write_bytes(b"1")
    assert [s.path for s in list_sources(run_of(tmp_path, reader="wfdb").data, KEYS).sources][-2:] == [
        "200.dat",
        "p1.hea",
    ]


def test_a_bucket_gives_the_same_scans_as_a_disk(tmp_path: Path, records: Path, s3: Callable[[], str]) -> None:
    (records / "100.csv").unlink()
    bucket = ObjectStore(s3())
    for path in records.iterdir():
        bucket.write(path.name, path.read_bytes())
    local, remote = run_of(tmp_path), run_of(tmp_path, source=bucket.root, dataset="remote")
    counts = packed(local).counts
    assert (counts["sources"], counts["packed"], counts["quarantined"]) == (2, 3, 0)
    assert packed(remote).counts == counts
    stored = objects(ObjectStore(local.storage))
    shards = [{p.rpartition("/")[2] for p in stored if f"{name}/shards/" in p} for name in ("ecg", "remote")]
    assert shards[0] == shards[1] != set()
    assert not any(PATIENT.encode() in data for data in stored.values())
    bucket.delete("s_0002.dat")
    reasons = [entry["reason"] for entry in packed(run_of(tmp_path, source=bucket.root, dataset="new")).quarantined]
    assert reasons == ["a file that the WFDB header names is missing"]


def write_record(folder: Path, seed: int) -> None:
    """A record whose header says nothing of its values, as many devices write them."""
    folder.mkdir(parents=True, exist_ok=True)
    values = (np.random.default_rng(seed).normal(size=1000) * 200).clip(-2000, 2000).astype("<i2")
    (folder / "rec.dat").write_bytes(values.tobytes())
    (folder / "rec.hea").write_text("rec 1 360 1000\nrec.dat 16 200 12 0\n")


def changed(summary: PackSummary) -> dict[str, int]:
    return {name: count for name, count in summary.changes.items() if count}


@pytest.mark.parametrize("pattern", ["", "/**/*.hea"])
def test_records_with_equal_headers_and_other_values_are_both_packed(tmp_path: Path, pattern: str) -> None:
    for number in (1, 2):
        write_record(tmp_path / "archive" / f"patient_{number}", number)
    run = run_of(tmp_path, channels=1, source=f"{tmp_path / 'archive'}{pattern}")
    assert changed(packed(run)) == {"new": 2}
    assert changed(packed(run)) == {"same": 2}


def test_a_record_is_compared_by_all_its_files(tmp_path: Path) -> None:
    for number in (1, 2):
        write_record(tmp_path / "archive" / f"patient_{number}", number)
    run = run_of(tmp_path, channels=1)
    packed(run)
    write_record(tmp_path / "archive" / "patient_1", 3)
    assert changed(packed(run)) == {"same": 1, "changed": 1}
    os.utime(tmp_path / "archive" / "patient_1" / "rec.dat")
    assert changed(packed(run)) == {"same": 2}
    shutil.move(tmp_path / "archive" / "patient_2", tmp_path / "archive" / "other" / "patient_2")
    assert changed(packed(run)) == {"same": 1, "renamed": 1}
    shutil.copytree(tmp_path / "archive" / "patient_1", tmp_path / "archive" / "again" / "patient_1")
    assert changed(packed(run)) == {"same": 2, "copied": 1}


def test_another_header_of_a_pair_is_seen(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    array, run = np.arange(256, dtype=np.int16).reshape(8, 8, 4), run_file(tmp_path, shape=[8, 8, 4])
    for height, found in ((3.0, {"new": 1}), (9.0, {"changed": 1})):
        write_nifti_pair(tmp_path / "archive", array=array, affine=np.diag([2, 2, height, 1]))
        assert changed(packed(run)) == found
