from __future__ import annotations

import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.readers.reader_registry import READERS, reader_for, reader_named


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://a/b/T1.nii.gz", "nifti"),
        ("/a/T1.NII", "nifti"),
        ("a.dcm", "dicom"),
        ("/a.b/IM-0001", "dicom"),
        ("/a/1.2.840.10008.5", "dicom"),
        ("a.PNG", "image"),
        ("a.b.jpeg", "image"),
        ("a.npz", "medmnist"),
        ("a.csv", "ecg-csv"),
        ("a.hea", "wfdb"),
    ],
)
def test_reader_by_suffix(uri: str, name: str) -> None:
    assert reader_for(None, uri).name == name


def test_reader_by_name_whatever_the_suffix() -> None:
    assert reader_for("dicom", "a.csv").name == "dicom"


@pytest.mark.parametrize("uri", ["Doe^Jane.docx", "Doe^Jane.gz", "Doe^Jane.nii.bz2"])
def test_unknown_suffix_lists_the_choices_and_not_the_file(uri: str) -> None:
    with pytest.raises(RunFileError) as error:
        reader_for(None, uri)
    assert all(reader.name in error.value.do for reader in READERS)
    assert "Doe" not in str(error.value)


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(RunFileError, match="'nrrd'") as error:
        reader_named("nrrd")
    assert "nifti (.nii .nii.gz)" in error.value.do


def test_no_suffix_has_two_readers() -> None:
    suffixes = [suffix for reader in READERS for suffix in reader.suffixes]
    assert len(suffixes) == len(set(suffixes))
