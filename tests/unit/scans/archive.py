"""Short ways to read files in these tests, and the real files that installed wheels carry."""

from __future__ import annotations

from pathlib import Path

import nibabel
import nilearn
import pydicom
import pydicom.data
import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found, Reader
from medfuncta_dist.scans.scan import Scan
from tests.writers import PATIENT, PATIENT_ID, PATIENT_UID

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
NILEARN = Path(nilearn.__file__).parent / "datasets" / "data"
PYDICOM = Path(pydicom.data.__file__).parent / "test_files"


def declared(shape: list[int], **keys: object) -> Data:
    """A data section with this shape."""
    return Data.model_validate({"source": "/archive/*", "shape": shape, **keys})


def all_found(reader: Reader, path: Path) -> list[Found]:
    """Everything in a file."""
    return list(reader.scans(path))


def only(reader: Reader, path: Path) -> Scan:
    """The one scan of a file."""
    [found] = reader.scans(path)
    assert (found.item, found.split) == ("", None)
    assert isinstance(found.scan, Scan)
    return found.scan


def edited(path: Path, **elements: object) -> Path:
    """A DICOM file with other elements (None: without it), in its place."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def reason(reader: Reader, path: Path) -> str:
    """Why a file is refused; the words name neither the file nor its patient."""
    with pytest.raises(ScanError) as error:
        all_found(reader, path)
    for private in (PATIENT, PATIENT_ID, PATIENT_UID, path.name):
        assert private not in str(error.value)
    return error.value.what
