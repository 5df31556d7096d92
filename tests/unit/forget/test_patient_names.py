from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.forget.patient_names import PatientName
from medfuncta_dist.task_map import map_here
from tests.unit.forget.archives import packed, run_of, scans
from tests.writers import write_dicom, write_png


def dicom(path: Path, patient: str, issuer: str = "", seed: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    write_dicom(path, (12, 12), seed)
    dataset = pydicom.dcmread(path)
    dataset.PatientID, dataset.IssuerOfPatientID = patient, issuer
    dataset.save_as(path)


def patient(run: RunFile, *names: PatientName) -> int:
    return sum(done.record.scans for done in forget(open_place(run), Asked(patients=names), map_here))


def test_a_dicom_patient_is_named_by_id_and_issuer(tmp_path: Path) -> None:
    for n, (name, issuer) in enumerate([("AB 17", ""), ("AB 17", "North"), ("CD 18", "North"), ("ab 17 ", "north")]):
        dicom(tmp_path / "archive" / f"{n}.dcm", name, issuer, seed=n)
    (tmp_path / "archive" / "4.dcm").write_bytes(b"no picture")
    run = run_of(tmp_path)
    packed(run)
    assert patient(run, PatientName("AB 17 ")) == 1
    assert patient(run, PatientName("AB 17", "South")) == 0
    assert patient(run, PatientName("ab 17", "NORTH")) == 2
    assert len(scans(run)) == 1
    dicom(tmp_path / "archive" / "9.dcm", "AB 17", "North", seed=9)  # only the file itself says whose it is
    packed(run)
    assert len(scans(run)) == 1


def test_a_patients_unusable_dicom_files_go_too(tmp_path: Path) -> None:
    for n in range(3):
        dicom(tmp_path / "archive" / f"{n}.dcm", "AB17" if n else "CD18", seed=n)
    dataset = pydicom.dcmread(tmp_path / "archive" / "2.dcm")
    dataset.PixelData = dataset.PixelData[:100]
    dataset.save_as(tmp_path / "archive" / "2.dcm")
    run = run_of(tmp_path)
    assert packed(run).counts["packed"] == 2
    (done,) = forget(open_place(run), Asked(patients=(PatientName("AB17"),)), map_here)
    assert (done.record.scans, done.record.sources) == (1, 2) or done.record.sources == 2
    summary = packed(run)
    assert (summary.counts["packed"], summary.counts["sources"], summary.quarantined) == (1, 1, [])


@pytest.mark.parametrize(
    ("paths", "data", "name"),
    [
        (["sub-07/ses-1/a.png", "sub-08/a.png"], {}, "sub-07"),
        (["sub-07/ses-1/a.png", "sub-08/a.png"], {}, "07"),
        (["imagesTr/liver_1_0000.png", "imagesTr/liver_2_0000.png"], {}, "liver_1"),
        (["Patient012/a.png", "Patient013/a.png"], {}, "PATIENT012"),
        (["x/K-1/a.png", "x/K-2/a.png"], {"group": {"path": "/(K-[0-9]+)/"}}, "K-1"),
    ],
)
def test_a_patient_is_named_as_the_layout_says(tmp_path: Path, paths: list[str], data: Any, name: str) -> None:
    for n, path in enumerate(paths):
        (tmp_path / "archive" / path).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "archive" / path, (12, 12), seed=n)
    run = run_of(tmp_path, **data)
    packed(run)
    groups = {scan.group for scan in scans(run).values()}
    assert patient(run, PatientName(name)) == 1
    (left,) = scans(run).values()
    assert patient(run, PatientName((groups - {left.group}).pop())) == 0
    assert patient(run, PatientName(left.group)) == 1  # by key


def test_a_patient_of_the_owners_table(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    rows = ["file,who"]
    for n in range(4):
        write_png(tmp_path / "archive" / f"{n}.png", (12, 12), seed=n)
        rows.append(f"{n}.png,P{n // 2}")
    (tmp_path / "archive" / "3.png").write_bytes(b"no picture")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    run = run_of(tmp_path, group={"table": str(tmp_path / "table.csv"), "source": "file", "group": "who"})
    packed(run)
    (done,) = forget(open_place(run), Asked(patients=(PatientName("P1"),)), map_here)
    assert (done.record.scans, done.record.sources) == (1, 2)
    assert len(scans(run)) == 2


@pytest.mark.parametrize("by", ["path", "series", "patient"])
def test_a_patient_of_data_table_whatever_its_rows_are_about(tmp_path: Path, by: str) -> None:
    rows = [f"{by},who"]
    for n in range(4):
        path = tmp_path / "archive" / f"{n}.dcm"
        dicom(path, f"MRN{n}", seed=n)
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = f"1.2.3.{n}"
        if n == 3:
            dataset.PixelData = dataset.PixelData[:100]
        dataset.save_as(path)
        rows.append(f"{ {'path': path.name, 'series': f'1.2.3.{n}', 'patient': f'MRN{n}'}[by] },P{n // 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    run = run_of(tmp_path, table={"path": str(tmp_path / "table.csv"), "by": by, "group": "who"})
    packed(run)
    (tmp_path / "table.csv").write_text("\n".join(rows[:1] + rows[3:]))  # it need not name the others
    (done,) = forget(open_place(run), Asked(patients=(PatientName("P1"),)), map_here)
    assert (done.record.scans, done.record.sources) == (
        2,
        2,
    )  # an image of a series that could not be read is a scan that is quarantined
    (tmp_path / "table.csv").write_text("\n".join(rows[:3]))
    summary = packed(run)
    assert (summary.counts["packed"], summary.changes["same"], summary.quarantined) == (2, 2, [])
