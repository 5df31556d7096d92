from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.readers.reader_registry import READERS, configured_reader, reader_for, reader_named
from tests.unit.scans.archive import declared
from tests.writers import write_nifti


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
        ("a.IMG", "nifti"),
        ("a.hdr.gz", "nifti"),
        ("orig.mgz", "mgh"),
        ("a.TIFF", "tiff"),
        ("a.bmp", "image"),
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
    assert "mgh (.mgh .mgz)" in error.value.do


def test_no_suffix_has_two_readers() -> None:
    suffixes = [suffix for reader in READERS for suffix in reader.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_readers_are_set_up_as_the_run_file_asks(tmp_path: Path) -> None:
    series = write_nifti(tmp_path / "a.nii", array=np.zeros((2, 3, 4, 3), np.uint8))
    pages = tmp_path / "a.tif"
    tifffile.imwrite(pages, np.zeros((3, 8, 9), np.uint8), photometric="minisblack")

    def found(path: Path, **keys: object) -> list[str]:
        data = declared(keys.pop("shape", [8, 8, 8]), **keys)  # type: ignore[arg-type]
        return [one.item for one in configured_reader(data, str(path)).scans(path)]

    assert found(series) == ["volume/0", "volume/1", "volume/2"]
    assert found(series, volume=2) == ["volume/2"]
    assert found(pages) == [""]
    assert found(pages, shape=[8, 8]) == ["page/0", "page/1", "page/2"]
    assert found(pages, shape=[8, 8], slices={"axis": 2}) == [""]
