from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    EnhancedXAImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from tests.unit.scans.archive import PYDICOM, all_found, edited
from tests.writers import PATIENT, write_dicom

TEXT, FEATURES = "text is burned into", "features that a person can be recognised by"
CAPTURE, ULTRASOUND, FLUOROSCOPY = "a secondary capture or screen save", "an ultrasound image", "a fluoroscopy"
RISKS = [
    *(({"BurnedInAnnotation": word}, TEXT) for word in ("YES", "Yes", " yes ", "Y", "TRUE", f"{PATIENT}")),
    *(({"RecognizableVisualFeatures": word}, FEATURES) for word in ("YES", "yes")),
    ({"SOPClassUID": SecondaryCaptureImageStorage}, CAPTURE),
    ({"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}, CAPTURE),
    ({"SOPClassUID": MultiFrameTrueColorSecondaryCaptureImageStorage}, CAPTURE),
    ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, CAPTURE),
    ({"ImageType": ["DERIVED", "SECONDARY", "Screen_Save"]}, CAPTURE),
    ({"ImageType": "SECONDARY CAPTURE"}, CAPTURE),
    ({"ConversionType": "WSD"}, CAPTURE),
    ({"Modality": "US"}, ULTRASOUND),
    ({"Modality": "IVUS"}, ULTRASOUND),
    ({"SOPClassUID": UltrasoundMultiFrameImageStorage}, ULTRASOUND),
    ({"Modality": "XA"}, FLUOROSCOPY),
    ({"Modality": "RF"}, FLUOROSCOPY),
    ({"SOPClassUID": EnhancedXAImageStorage}, FLUOROSCOPY),
]
SAFE: list[dict[str, object]] = [
    {},
    {"BurnedInAnnotation": "NO", "RecognizableVisualFeatures": "NO"},
    {"BurnedInAnnotation": "No", "Modality": "US"},
    {"BurnedInAnnotation": "no", "Modality": "RF"},
    {"BurnedInAnnotation": "", "RecognizableVisualFeatures": ""},
    {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
    {"ConversionType": ""},
    {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"},
]


def risk(path: Path) -> str | None:
    [found] = all_found(DicomReader(), path)
    return found.burn_in


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(("elements", "words"), RISKS)
def test_pictures_that_may_name_or_show_the_patient(tmp_path: Path, elements: dict[str, object], words: str) -> None:
    found = risk(edited(write_dicom(tmp_path / "a.dcm"), **elements))
    assert found is not None
    assert words in found
    assert PATIENT not in found


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("elements", SAFE)
def test_pictures_of_which_nothing_says_so(tmp_path: Path, elements: dict[str, object]) -> None:
    assert risk(edited(write_dicom(tmp_path / "a.dcm"), **elements)) is None


def test_every_frame_carries_the_risk() -> None:
    found = all_found(DicomReader(), PYDICOM / "examples_ybr_color.dcm")
    assert len(found) == 30
    assert {f.burn_in for f in found} == {"an ultrasound image that is not declared free of burned-in text"}
