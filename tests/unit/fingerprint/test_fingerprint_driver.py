"""Real files of every kind, read as the command reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError, WorkerDiedError
from medfuncta_dist.fingerprint.fingerprint_driver import fingerprint
from medfuncta_dist.fingerprint.fingerprint_text import lines_of
from medfuncta_dist.fingerprint.summary import FORMAT_VERSION, KIND
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import Failed, map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.writers import PATIENT, PATIENT_ID, PATIENT_UID, write_dicom, write_medmnist, write_nifti, write_png


def data(folder: Path, **fields: object) -> Data:
    return Data.model_validate({"source": str(folder), "shape": [2], **fields})


def taken(folder: Path, scans: int = 100, **fields: object) -> dict[str, Any]:
    return fingerprint(data(folder, **fields), scans, map_here)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / "Doe^Jane").mkdir(parents=True)
    for n in range(6):
        array = np.random.default_rng(n).integers(0, 2000, (40, 40)).astype(np.uint16)
        write_dicom(folder / f"Doe^Jane/{n}.dcm", array=array, modality="CT", slope=1, intercept=-1024)
    for n in range(3):
        write_nifti(folder / f"{PATIENT}-{n}.nii.gz", seed=n)
        write_png(folder / f"picture-{n}.png", seed=n)
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "broken.dcm").write_bytes(b"not a file")
    return folder


def test_each_modality_has_its_figures_and_a_suggestion(archive: Path) -> None:
    found = taken(archive)
    assert (found["format_version"], found["kind"]) == (FORMAT_VERSION, KIND)
    assert found["sources"] == {"found": 14, "read": 14}
    assert found["scans"] == {"found": 12, "sampled": 12}
    assert found["reasons"] == {"no reader knows its suffix": 1, "not a readable DICOM file": 1}
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
    assert few["sources"] == {"found": 14, "read": 5}
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
        (0, 14, "sources"),
        (8, 14, "sources"),
        (14, 14, "sources"),
    ]


def test_without_a_usable_scan_the_reasons_are_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(RunFileError, match="1 x not a readable DICOM file"):
        taken(tmp_path)
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
            if any(source.relative.startswith("picture-1") for source in item.sources):
                yield Failed(item, WorkerDiedError("it died", do=""))
            else:
                yield from map_here(task, [item])

    found = fingerprint(data(archive), 100, dying)
    assert found["reasons"]["reading it failed: WorkerDiedError"] == 1
    assert found["sources"] == {"found": 14, "read": 14}
    assert found["scans"]["sampled"] == 11
