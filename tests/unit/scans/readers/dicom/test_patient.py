from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.readers.dicom.patient import patient_of, study_of
from tests.writers import PATIENT_ID, PATIENT_UID, write_dicom


def dataset(**attributes: object) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "0",
        "0000",
        "00-00",
        "XXX",
        "x",
        "ANONYMOUS",
        "Anonymized ",
        "anonymous^",
        "UNKNOWN",
        "N/A",
        "NoID",
        "---",
    ],
)
def test_what_anonymisers_write_into_every_file_is_nobody(text: str) -> None:
    assert patient_of(dataset(PatientID=text, IssuerOfPatientID="hospital")) is None


@pytest.mark.parametrize("text", ["10", "1", "P0", "ANON-0042", "anonymous1", "000001", "X7", "MRN 00"])
def test_a_number_or_a_pseudonym_is_somebody(text: str) -> None:
    assert patient_of(dataset(PatientID=text)) is not None


def test_a_file_without_an_id_names_nobody() -> None:
    assert patient_of(dataset()) is None
    assert patient_of(dataset(PatientID=None)) is None


def test_case_and_padding_do_not_make_another_patient() -> None:
    assert patient_of(dataset(PatientID="ab1 ")) == patient_of(dataset(PatientID=" AB1"))


def test_an_id_counts_within_its_issuer() -> None:
    ours, theirs, none = (patient_of(dataset(PatientID="7", IssuerOfPatientID=name)) for name in ("A", "B", None))
    assert len({ours, theirs, none}) == 3


def test_the_examination_is_the_study_or_else_the_series() -> None:
    assert study_of(dataset(StudyInstanceUID="1.2", SeriesInstanceUID="1.3")) == "1.2"
    assert study_of(dataset(StudyInstanceUID="", SeriesInstanceUID="1.3")) == "1.3"
    assert study_of(dataset()) is None


def test_the_reader_says_whose_scan_it_is_and_never_prints_it(tmp_path: Path) -> None:
    [found] = DicomReader().scans(write_dicom(tmp_path / "a.dcm"))
    assert found.group is not None
    assert PATIENT_ID.casefold() in found.group
    assert found.study == PATIENT_UID
    assert PATIENT_ID.casefold() not in repr(found).casefold()
    assert PATIENT_UID not in repr(found)
