"""Real files of every kind, read as the command reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError, WorkerDiedError
from medfuncta_dist.fingerprint import drawn_sources
from medfuncta_dist.fingerprint.fingerprint_driver import fingerprint
from medfuncta_dist.fingerprint.fingerprint_text import lines_of
from medfuncta_dist.fingerprint.summary import FORMAT_VERSION, KIND
from medfuncta_dist.scans.readers.dicom.stacks import GAP, LOCALIZER
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import Failed, map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.writers import (
    PATIENT,
    PATIENT_ID,
    PATIENT_UID,
    structured,
    write_dicom,
    write_medmnist,
    write_nifti,
    write_png,
    write_series,
)


def data(folder: Path, **fields: object) -> Data:
    return Data.model_validate({"source": str(folder), "shape": [2], **fields})


def taken(folder: Path, scans: int = 100, **fields: object) -> dict[str, Any]:
    return fingerprint(data(folder, **fields), scans, map_here)


SHAPE = (20, 16, 12)
"""Rows, columns, slices"""


def stored(seed: int) -> np.ndarray:
    """(row, column, slice), as a CT stores it: 0 is -1024 HU."""
    return np.rint(structured(SHAPE, seed) * 3000).astype(np.int16)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / "Doe^Jane").mkdir(parents=True)
    for n in range(6):
        array = np.random.default_rng(n).integers(0, 2000, (40, 40)).astype(np.uint16)
        own = dict.fromkeys(("SeriesInstanceUID", "SOPInstanceUID"), f"1.2.{n}")
        path = folder / f"Doe^Jane/{n}.dcm"
        write_dicom(path, array=array, modality="CT", slope=1, intercept=-1024, elements=own)
    for n in range(3):
        write_nifti(folder / f"{PATIENT}-{n}.nii.gz", seed=n)
        write_png(folder / f"picture-{n}.png", seed=n)
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "broken.dcm").write_bytes(b"not a file")
    return folder


def test_each_modality_has_its_figures_and_a_suggestion(archive: Path) -> None:
    found = taken(archive)
    assert (found["format_version"], found["kind"]) == (FORMAT_VERSION, KIND)
    assert found["files"] == {"found": 13, "dicom": 7, "headers_read": 7}
    assert found["sources"] == {"found": 13, "read": 13}
    assert found["series"] == {"found": 6, "read": 6}
    assert found["scans"] == {"found": 12, "sampled": 12}
    assert found["aside"] == {"no reader takes .pdf": 1}
    assert found["reasons"] == {"not a readable DICOM file": 1}
    groups = {(group["modality"], group["axes"]): group for group in found["groups"]}
    assert {key: group["scans"] for key, group in groups.items()} == {("CT", 2): 6, ("OT", 3): 3, ("PX", 2): 3}
    ct = groups["CT", 2]
    assert ct["spacing"]["median"] == [0.8, 0.6]
    assert ct["shape"]["common"] == [[[40, 40], 6]]
    assert ct["orientations"] == {"axial": 6}
    assert ct["suggested"]["data"] == {"shape": [53, 40], "ct_window": [-1000, 1000]}
    pooled = dict(zip(ct["intensity"]["percentiles"], ct["intensity"]["pooled"], strict=True))
    assert pooled[50.0] == pytest.approx(1000 - 1024, abs=40)
    assert groups["OT", 3]["suggested"]["data"]["intensity"]["mode"] == "percentile"
    assert groups["PX", 2]["suggested"]["data"]["intensity"] == {"mode": "dtype"}


def test_what_is_printed_is_a_part_of_a_run_file(archive: Path) -> None:
    lines = lines_of(taken(archive))
    snippets = "\n".join(lines).split(": for the run file\n")[1:]
    assert len(snippets) == 3
    for snippet in snippets:
        section = yaml.safe_load(snippet.split("\n\n")[0])["data"]
        Data.model_validate({"source": "x", **section})
    assert "a run has one shape" in lines[-1]


def test_nothing_names_a_patient_or_a_file(archive: Path) -> None:
    found = taken(archive)
    said = json.dumps(found) + "\n".join(lines_of(found))
    for secret in (PATIENT, PATIENT_ID, PATIENT_UID, "Doe", "Jane", "picture-", "notes", "broken", str(archive)):
        assert secret not in said


def test_the_sample_depends_on_names_only(archive: Path, tmp_path: Path) -> None:
    few = taken(archive, scans=5)
    assert few["scans"]["sampled"] <= 5
    assert few["sources"] == {"found": 13, "read": 5}
    moved = archive.rename(tmp_path / "moved")
    assert taken(moved, scans=5) == few

    def backwards(task: Any, items: Any) -> Any:
        return map_here(task, list(reversed(items)))

    assert fingerprint(data(moved), 100, backwards) == taken(moved)


def test_a_file_of_many_scans_is_sampled_too(tmp_path: Path) -> None:
    path = write_medmnist(tmp_path / "archive.npz", counts={"train": 30, "test": 10})
    found = taken(path, scans=7)
    assert found["scans"] == {"found": 40, "sampled": 7}
    assert taken(path, scans=7) == found


def test_progress_counts_sources(archive: Path) -> None:
    reports: list[ProgressReport] = []
    fingerprint(data(archive), 100, map_here, reports.append)
    assert [(report.done, report.total, report.unit) for report in reports] == [
        (0, 7, "sources"),
        (0, 13, "sources"),
        (8, 13, "sources"),
        (13, 13, "sources"),
    ]
    assert reports[0].notes == {"reading": "headers, 7 of 7"}


def test_without_a_usable_scan_the_reasons_are_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(RunFileError, match="1 x not a readable DICOM file"):
        taken(tmp_path)
    write_series(tmp_path / "gap", stored(0), skip=(5,))
    with pytest.raises(RunFileError, match=f"11 x {GAP}") as error:
        taken(tmp_path / "gap")
    assert "data.series" in error.value.do
    with pytest.raises(RunFileError, match="names a snapshot, but no scans"):
        fingerprint(Data(snapshot="0" * 64, shape=[2]), 5, map_here)


def test_splits_may_have_files_of_the_same_name(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write_png(tmp_path / split / "a.png")
    splits = {split: str(tmp_path / split / "*.png") for split in ("train", "test")}
    found = fingerprint(Data(splits=splits, shape=[2]), 10, map_here)
    assert found["scans"] == {"found": 2, "sampled": 2}


def test_an_archive_on_s3(archive: Path, s3: Callable[[], str]) -> None:
    root = s3()
    store = ObjectStore(root)
    for path in archive.rglob("*"):
        if path.is_file():
            store.upload(path, f"scans/{path.relative_to(archive)}")
    found = fingerprint(Data(source=f"{root}/scans", shape=[2]), 100, map_here)
    assert found == taken(archive)


def test_a_source_that_kills_its_worker_is_a_reason(archive: Path) -> None:
    def dying(task: Any, items: Any) -> Any:
        for item in items:
            if any(drawn.source.relative.startswith("picture-1") for drawn in item.sources):
                yield Failed(item, WorkerDiedError("it died", do=""))
            else:
                yield from map_here(task, [item])

    found = fingerprint(data(archive), 100, dying)
    assert found["reasons"]["reading it failed: WorkerDiedError"] == 1
    assert found["sources"] == {"found": 13, "read": 13}
    assert found["scans"]["sampled"] == 11


def hospital(folder: Path) -> Path:
    """Three CT series whose files lie scattered over three folders, one of them with a slice missing; an X-ray; and two
    localizers in a series of their own."""
    for n in range(3):
        write_series(folder, stored(n), name=f"ct{n}", patient=f"{PATIENT_ID}{n}", skip=(5,) if n == 2 else ())
    own = {"SeriesInstanceUID": "1.2.9", "SOPInstanceUID": "1.2.9.1"}
    write_dicom(folder / "d0/x", (50, 40), modality="DX", spacing=(0.2, 0.2), position=None, elements=own)
    for n in range(2):
        scout = {
            "SeriesInstanceUID": "1.2.8",
            "SOPInstanceUID": f"1.2.8.{n}",
            "ImageType": ["ORIGINAL", "P", "LOCALIZER"],
        }
        write_dicom(folder / f"d{n}/scout", modality="CT", position=(0, 0, 10.0 * n), elements=scout)
    return folder


def test_slices_of_a_series_are_a_volume(tmp_path: Path) -> None:
    found = taken(hospital(tmp_path / "a"))
    assert found["files"] == {"found": 38, "dicom": 38, "headers_read": 38}
    assert found["sources"] == {"found": 5, "read": 5}
    assert found["series"] == {"found": 5, "read": 5}
    assert found["reasons"] == {GAP: 11, LOCALIZER: 2}
    groups = {(group["modality"], group["axes"]): group for group in found["groups"]}
    assert {key: (group["scans"], group["series"]) for key, group in groups.items()} == {
        ("CT", 3): (2, 2),
        ("XR", 2): (1, 1),
    }
    ct = groups["CT", 3]
    assert sorted(ct["shape"]["median"]) == sorted(SHAPE)
    assert sorted(ct["spacing"]["median"]) == [3, 3, 4]
    assert len(ct["suggested"]["data"]["shape"]) == 3
    # One spacing for all axes, that of the finest one: 48 x 60 x 48 mm at 3 mm.
    assert ct["suggested"]["data"] == {"shape": [16, 20, 16], "ct_window": [-1000, 1000]}
    values = np.concatenate([stored(n).reshape(-1) - 1024.0 for n in range(2)])
    assert ct["intensity"]["pooled"][4] == pytest.approx(np.median(values), abs=40)
    lines = "\n".join(lines_of(found))
    assert "5 of 5 DICOM series among them" in lines
    assert "CT, 3 axes, from 2 volumes of 2 DICOM series: for the run file" in lines
    assert PATIENT_ID not in lines + json.dumps(found)


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_series_inside_archive_files_are_the_same(tmp_path: Path, kind: str) -> None:
    loose = taken(hospital(tmp_path / "a"))
    shutil.make_archive(str(tmp_path / "b/study"), kind, tmp_path / "a")
    packed = taken(tmp_path / "b")
    assert packed["groups"] == loose["groups"]
    assert packed["reasons"] == loose["reasons"]
    assert packed["series"] == loose["series"]


def test_what_data_series_says_counts(tmp_path: Path) -> None:
    folder = hospital(tmp_path / "a")
    by_file = taken(folder, series="file")
    assert {group["axes"] for group in by_file["groups"]} == {2}
    assert by_file["series"] == {"found": 0, "read": 0}
    mended = taken(folder, series={"gap": "resample", "localizer": "keep"})
    assert {(g["modality"], g["axes"]): g["scans"] for g in mended["groups"]} == {("CT", 3): 4, ("XR", 2): 1}
    left_out = taken(folder, series={"gap": "leave_out"})
    assert left_out["reasons"] == {"left out, as data.series says": 11, LOCALIZER: 2}


def test_the_pixels_that_are_read_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    for n in range(4):
        write_series(folder, stored(n), name=f"ct{n}", folders=1)
    monkeypatch.setattr(drawn_sources, "MOST_SLICES", 6)
    found = taken(folder, scans=4)  # 24 files: two series
    assert found["series"] == {"found": 4, "read": 2}
    assert found["scans"] == {"found": 2, "sampled": 2}
    assert taken(folder, scans=1)["series"] == {"found": 4, "read": 1}


def test_headers_are_read_of_whole_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        write_series(tmp_path / f"a/{n}", stored(n), name=f"ct{n}", folders=1)
    write_png(tmp_path / "a/picture.png")
    monkeypatch.setattr(drawn_sources, "MOST_HEADERS", 30)
    found = taken(tmp_path / "a")
    assert found["files"] == {"found": 49, "dicom": 48, "headers_read": 24}
    assert found["sources"] == {"found": 3, "read": 3}
    assert "headers: 24 of 48 DICOM files, those of whole folders" in lines_of(found)
    monkeypatch.setattr(drawn_sources, "MOST_HEADERS", 5)
    assert taken(tmp_path / "a")["files"]["headers_read"] == 12
