from __future__ import annotations

import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.patient_group import ALONE, AS_IN_FILE, Group, group_in_path, group_of
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan_key import KeyMaker
from tests.unit.scans.archive import declared

KEYS = KeyMaker(bytes(32))
UNREAD = ScanError("not read here")


def by(relative: str, uri: str = "") -> Group | None:
    return group_in_path(relative, uri or f"/archive/{relative}", KEYS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/func/sub-01_ses-2_bold.nii.gz"),
        ("derivatives/fmriprep/sub-01/anat/a.nii.gz", "sub-01/anat/b.nii.gz"),
        ("sub-01_T1w.nii.gz", "deep/sub-01/b.nii"),
        ("imagesTr/BRATS_001_0000.nii.gz", "imagesTr/BRATS_001_0003.nii.gz"),
        ("patient_001/scan_1.nii.gz", "patient_001/scan_2.nii.gz"),
        ("train/patient00007/study1/view1.png", "valid/patient00007/study2/view1.png"),
        ("pat13/ses0.nii.gz", "Pat13/ses1.nii.gz"),
        ("case_00012/imaging.nii.gz", "case_00012_late.nii.gz"),
        (
            "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
            "BraTS-GLI-00000-001/BraTS-GLI-00000-001-t2w.nii.gz",
        ),
        ("BraTS2021_00000/BraTS2021_00000_t1.nii.gz", "BraTS2021_00000/BraTS2021_00000_flair.nii.gz"),
        ("BraTS20_Training_001_t1.nii", "BraTS20_Training_001_t2.nii"),
        ("HGG/Brats18_TCIA01_131_1/Brats18_TCIA01_131_1_t1.nii.gz", "Brats18_TCIA01_131_2_t1.nii.gz"),
        ("LIDC-IDRI-0001/ct.nii.gz", "LIDC-IDRI-0001/x/dx.nii.gz"),
    ],
)
def test_one_patient_s_files_are_one_group(one: str, other: str) -> None:
    assert by(one) == by(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sub-01/a.nii", "sub-011/a.nii"),
        ("imagesTr/BRATS_001_0000.nii.gz", "imagesTr/BRATS_002_0000.nii.gz"),
        ("patient_001/scan_1.nii.gz", "patient_0010/scan_1.nii.gz"),
        ("BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-GLI-00001-000-t1n.nii.gz"),
        ("BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-MEN-00000-000-t1n.nii.gz"),
        ("BraTS_2023/BraTS-GLI-00000-000-t1n.nii.gz", "BraTS_2023/BraTS-GLI-00001-000-t1n.nii.gz"),
        ("Brats18_TCIA01_131_1_t1.nii.gz", "Brats18_TCIA02_131_1_t1.nii.gz"),
    ],
)
def test_two_patients_are_two_groups(one: str, other: str) -> None:
    assert by(one) != by(other)


@pytest.mark.parametrize(
    "relative",
    [
        "scan_2021.nii.gz",
        "NORMAL/im-1.png",
        "subset-1/a.png",
        "submitted/a.png",
        "a/0001.dcm",
        "cases/a.png",
        "BraTS_2023/t1.nii.gz",
    ],
)
def test_other_paths_tell_nothing(relative: str) -> None:
    assert by(relative) is None


def test_nnunet_s_folder_may_be_in_the_fixed_part_of_the_source() -> None:
    assert by("x_0000.nii.gz", "s3://a/imagesTr/x_0000.nii.gz") == by("x_0001.nii.gz", "s3://a/imagesTr/x_0001.nii.gz")
    assert by("x_0000.nii.gz", "s3://a/images/x_0000.nii.gz") is None


def test_a_group_is_a_key_that_tells_neither_path_nor_patient() -> None:
    group = by("sub-Doe/a.nii.gz")
    assert group is not None
    assert len(group.key) == 64
    assert int(group.key, 16)
    other = group_in_path("sub-Doe/a.nii.gz", "", KeyMaker(bytes(31) + b"1"))
    assert other is not None
    assert other.key != group.key


def found(split: str | None = None, group: str | None = None, study: str | None = None) -> Found:
    return Found("", split, UNREAD, group=group, study=study)


FOLDER = Group(KEYS.group_key("bids", "01"), "bids")


def test_what_the_file_says_goes_first_and_the_examination_last() -> None:
    data = declared([8, 8])
    assert group_of(found(group="p", study="s"), FOLDER, data, KEYS) == (KEYS.group_key("patient", "p"), "patient")
    assert group_of(found(study="s"), FOLDER, data, KEYS) == FOLDER
    assert group_of(found(study="s"), None, data, KEYS) == (KEYS.group_key("study", "s"), "study")
    assert group_of(found(), None, data, KEYS) == ALONE


def test_a_rule_of_the_run_file_goes_before_the_file() -> None:
    data = declared([8, 8], group={"path": "(a)"})
    assert group_of(found(group="p"), FOLDER, data, KEYS) == FOLDER


def test_scans_in_their_file_s_own_splits_are_nobody_s() -> None:
    assert group_of(found(split="train"), FOLDER, declared([8, 8]), KEYS) == AS_IN_FILE


def test_by_source_there_are_no_groups() -> None:
    assert group_of(found(group="p"), FOLDER, declared([8, 8], group="source"), KEYS) is None
