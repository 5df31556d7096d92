"""Real archives, packed, and their reports."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.data_report.data_report_driver import (
    EXIT_LEAK,
    _look_alikes,
    answer_of,
    report_folder,
    write_data_report,
)
from medfuncta_dist.data_report.equal_samples import equal_samples
from medfuncta_dist.data_report.tally import LONG
from medfuncta_dist.errors import IntegrityError, RunFileError, StageOrderError
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.stages import run_summary
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.mapping_rows import read_mapping
from tests.unit.shards.samples import run_file
from tests.writers import PATIENT, PATIENT_ID, PATIENT_UID, write_dicom, write_ecg_csv, write_medmnist, write_nifti


def packed(folder: Path, **data: object) -> RunFile:
    run = run_file(folder, name="mixed", **({"shape": [16, 16], "max_quarantined": 0.5} | data))
    pack(run, map_here, lambda progress: None)
    return run


def reported(run: RunFile, folder: Path, pictures: int = 2) -> tuple[dict[str, Any], str]:
    content = write_data_report(run, folder, map_here, pictures)
    assert json.loads((folder / "data-report.json").read_bytes()) == json.loads(json.dumps(content))
    return content, (folder / "data-report.html").read_text("utf-8")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for n in range(12):
        modality = "CT" if n % 3 else "MR"
        array = np.random.default_rng(n).integers(0, 2000, (20, 24)).astype(np.uint16)
        write_dicom(folder / f"Doe^Jane-{n}.dcm", array=array, modality=modality, slope=1, intercept=-1024)
    (folder / "broken.dcm").write_bytes(b"not a file")
    return folder


class Images(HTMLParser):
    """The attributes of all images of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def test_every_scan_is_counted_by_modality_split_and_reason(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path)
    content, _ = reported(run, tmp_path / "report")
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    assert (content["format_version"], content["kind"]) == (1, "medfuncta data report")
    assert content["dataset"]["digest"] == snapshot.digest
    assert content["counts"] == dict(snapshot.counts)
    assert {name: found["scans"] for name, found in content["modalities"].items()} == {"CT": 8, "MR": 4}
    assert content["reasons"] == {"source": {"not a readable DICOM file": 1}, "scan": {}}
    ct = content["modalities"]["CT"]
    assert ct["shapes"] == {"16 × 16": 8}
    assert ct["windows"] == {
        "sampled": 8,
        "different": 1,
        "lowest": [-1000, 1000],
        "median": [-1000, 1000],
        "highest": [-1000, 1000],
    }
    assert ct["values"]["measured"] == 8
    assert sum(map(sum, ct["spacing_histogram"]["axes"])) == 16
    assert content["modalities"]["MR"]["windows"]["different"] == 4
    # One patient: all scans in one split.
    assert content["patients"]["patients"] == 1
    assert [split["patients"] for split in content["splits"].values()] == [1]
    assert sum(split["scans"] for split in content["splits"].values()) == 12
    assert content["archive"]["files"] == 13
    assert content["archive"]["modalities"] == {"CT": 8, "MR": 4, "unknown": 1}
    assert content["archive"]["sizes"] == {"20 × 24": 12}


def test_nothing_names_a_patient_or_a_file(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path)
    content, page = reported(run, tmp_path / "report")
    keys = [row.key for row in read_mapping(tmp_path / "private")]
    for secret in (PATIENT, PATIENT_ID, PATIENT_UID, "Doe", "Jane", "broken", str(archive), archive.name + "/"):
        assert secret not in page + json.dumps(content)
    assert not any(key[:12] in json.dumps(content) for key in keys)


def test_the_page_loads_nothing_and_every_picture_has_words(archive: Path, tmp_path: Path) -> None:
    _, page = reported(packed(tmp_path), tmp_path / "report", pictures=3)
    images = Images(page).found
    assert all((image["src"] or "").startswith("data:image/") and image["alt"] for image in images)
    assert sum("scan" in (image["alt"] or "") and "split" in (image["alt"] or "") for image in images) == 6
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    assert "undefined" not in page.lower()


def test_only_the_owner_can_read_it_and_it_is_never_in_the_storage(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path)
    before = sorted(path for path in Path(run.storage).rglob("*") if path.is_file())
    folder = report_folder(run, None)
    assert folder == (tmp_path / "private/data-report").resolve()
    reported(run, folder)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert sorted(path for path in Path(run.storage).rglob("*") if path.is_file()) == before
    for inside in (f"{run.storage}/report", "s3://bucket/report"):
        with pytest.raises(RunFileError, match="not written into the storage") as error:
            report_folder(run, inside)
        assert error.value.where == "--out"


def test_the_archive_is_not_needed(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path)
    first, page = reported(run, tmp_path / "one")
    shutil.rmtree(archive)
    again, same = reported(run, tmp_path / "two")
    assert (again, same) == (first, page)
    shutil.rmtree(tmp_path / "private")
    assert reported(run, tmp_path / "three")[0] == {**first, "archive": None}


def test_scans_that_are_equal_in_two_splits_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    path = write_medmnist(tmp_path / "archive/a.npz", counts={"train": 12, "test": 4})
    with np.load(path) as members:
        arrays = dict(members)
    arrays["train_images"][3], arrays["train_labels"][3] = arrays["train_images"][1], arrays["train_labels"][1]
    arrays["test_images"][0], arrays["test_labels"][0] = arrays["train_images"][2], arrays["train_labels"][2]
    np.savez_compressed(path, **arrays)
    run = packed(tmp_path)
    content, page = reported(run, tmp_path / "report")
    assert content["equal_samples"] == {"copies": 2, "across_splits": 1}
    assert content["check"]["state"] == "warning"
    assert "<b>Warning.</b>" in page
    assert content["modalities"]["PX"]["labels"].keys() == {"0", "1"}
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    for at_once in (1, 3, 5):  # in several passes, the same
        found = equal_samples(store, snapshot, at_once)
        assert (found.copies, found.across_splits) == (2, 1)


def test_volumes_and_signals_are_shown_too(tmp_path: Path) -> None:
    for name in ("volumes", "signals"):
        (tmp_path / name / "archive").mkdir(parents=True)
    for n in range(3):
        write_nifti(tmp_path / f"volumes/archive/{n}.nii.gz", seed=n)
        write_ecg_csv(tmp_path / f"signals/archive/{n}.csv", rows=2, seed=n)
    volumes, page = reported(packed(tmp_path / "volumes", shape=[12, 12, 12]), tmp_path / "report-volumes")
    assert volumes["modalities"]["OT"]["shapes"] == {"12 × 12 × 12": 3}
    assert "axial, coronal and sagittal plane" in page
    signals, _ = reported(packed(tmp_path / "signals", shape=[187]), tmp_path / "report-signals")
    assert signals["modalities"]["ECG"]["scans"] == 6


def test_what_pack_says_about_look_alikes_is_shown(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path)
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    assert _look_alikes(store, run, snapshot) is None
    found = {"across_splits": 7, "across_patients": 3, "compared": 12, "uncompared": 0}
    run_summary.merge(store, run.name, "pack", {"snapshot": snapshot.digest, "look_alikes": found}, ALONE)
    content, page = reported(run, tmp_path / "report")
    assert content["look_alikes"] == found
    assert "pairs that look alike in different splits" in page
    run_summary.merge(store, run.name, "pack", {"snapshot": "of another", "look_alikes": found}, ALONE)
    assert _look_alikes(store, run, snapshot) is None


def test_a_damaged_shard_is_an_error(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path, dataset="damaged")
    (shard,) = Path(run.storage).glob("datasets/damaged/shards/*.tar")
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    run = run.model_copy(update={"cluster": run.cluster.model_copy(update={"cache": str(tmp_path / "cache")})})
    with pytest.raises(IntegrityError, match="does not match the snapshot"):
        write_data_report(run, tmp_path / "report", map_here, 1)
    assert not (tmp_path / "report").exists()


def test_progress_counts_shards_and_without_a_snapshot_there_is_nothing(archive: Path, tmp_path: Path) -> None:
    run = run_file(tmp_path, name="mixed", shape=[16, 16], max_quarantined=0.5)
    with pytest.raises(StageOrderError, match="no committed snapshot"):
        write_data_report(run, tmp_path / "report", map_here, 1)
    run = packed(tmp_path)
    reports: list[ProgressReport] = []
    write_data_report(run, tmp_path / "report", map_here, 1, reports.append)
    assert [(report.done, report.total, report.unit) for report in reports] == [(0, 1, "shards"), (1, 1, "shards")]


def test_a_leak_is_loud(archive: Path, tmp_path: Path) -> None:
    run = packed(tmp_path)
    content, _ = reported(run, tmp_path / "report")
    assert "exit_code" not in answer_of(content, tmp_path)
    leaking = content | {
        "check": {"state": "failed", "text": "2 of 20 patients are in several splits.", "splits_by": ""}
    }
    answer = answer_of(leaking, tmp_path)
    assert answer["exit_code"] == EXIT_LEAK
    assert "leakage between splits: FAILED: 2 of 20 patients" in "\n".join(answer["said"])


def test_a_data_set_on_s3_has_the_same_report(archive: Path, tmp_path: Path, s3: Callable[[], str]) -> None:
    here, _ = reported(packed(tmp_path), tmp_path / "here")
    run = run_file(tmp_path, storage=s3(), name="mixed", shape=[16, 16], max_quarantined=0.5)
    pack(run, map_here, lambda progress: None)
    there, _ = reported(run, tmp_path / "there")
    assert there == here


def test_scans_are_shown_and_measured_from_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits are drawn by keys, so the smallest keys would all be of one split."""
    (tmp_path / "archive").mkdir()
    for n in range(20):
        write_ecg_csv(tmp_path / f"archive/{n}.csv", rows=20, seed=n)
    run = packed(tmp_path, shape=[24], length="resample", fractions={"train": 0.5, "test": 0.5})
    monkeypatch.setattr("medfuncta_dist.data_report.data_report_driver.MEASURED", 100)
    content, page = reported(run, tmp_path / "report", pictures=24)
    assert 50 < content["modalities"]["ECG"]["values"]["measured"] < 150
    shown = [(image["alt"] or "") for image in Images(page).found]
    assert sum("of the test split" in alt for alt in shown) >= 5
    assert sum("of the train split" in alt for alt in shown) >= 5


def test_free_text_and_long_numbers_that_could_name_a_patient_are_not_shown(archive: Path, tmp_path: Path) -> None:
    free = pydicom.dcmread(archive / "Doe^Jane-0.dcm")
    free.Modality = "DOEJANE"
    free.save_as(archive / "Doe^Jane-0.dcm")
    path = write_medmnist(archive / "labels.npz", counts={"train": 6})
    with np.load(path) as members:
        arrays = dict(members)
    arrays["train_labels"] = np.array([[1], [2], [731728548], [20240131], [9999], [1]])
    np.savez_compressed(path, **arrays)
    content, page = reported(packed(tmp_path, identifying_labels="keep"), tmp_path / "report")
    assert content["archive"]["modalities"]["unknown"] == 2
    assert {label: sum(n.values()) for label, n in content["modalities"]["PX"]["labels"].items()} == {
        "1": 2,
        "2": 1,
        "9999": 1,
        LONG: 2,
    }
    for secret in ("DOEJANE", "731728548", "20240131"):
        assert secret not in page + json.dumps(content)
