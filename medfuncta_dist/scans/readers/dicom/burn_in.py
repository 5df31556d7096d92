"""Which DICOM images may show who the patient is: in text that is part of the picture, or by a face. Pure.

No pixel is looked at: the risk follows from what the file says and from what makes such files (DICOM PS3.15, annex E,
Clean Pixel Data and Clean Recognizable Visual Features Options).
"""

from __future__ import annotations

from typing import Any

import pydicom

NO = {"NO", "N", "FALSE", "0"}
STORAGE = "1.2.840.10008.5.1.4.1.1."
SECONDARY = tuple(STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4"))
ULTRASOUND = tuple(STORAGE + end for end in ("3", "3.1", "6", "6.1", "6.2"))
"""Two of them are retired."""
FLUOROSCOPY = tuple(STORAGE + end for end in ("12.1", "12.1.1", "12.2", "12.2.1", "12.3"))
CAPTURES = ("SCREENSAVE", "SCREENCAPTURE", "SCREENSHOT", "SECONDARYCAPTURE")
"""In a value of ImageType, letters only. (SECONDARY alone also means an image made from others: no risk.)"""


def burn_in_risk(dataset: pydicom.Dataset) -> str | None:
    """Why the image may name or show the patient, in fixed words; None where nothing says so."""
    declared = _word(dataset.get("BurnedInAnnotation"))
    if declared and declared not in NO:
        return "text is burned into the DICOM image"
    features = _word(dataset.get("RecognizableVisualFeatures"))
    if features and features not in NO:
        return "the DICOM image shows features that a person can be recognised by"
    if _is_capture(dataset):
        return "a secondary capture or screen save: text may be burned into the DICOM image"
    if declared:
        return None
    if _is_kind(dataset, ("US", "IVUS"), ULTRASOUND):
        return "an ultrasound image that is not declared free of burned-in text"
    if _is_kind(dataset, ("XA", "RF"), FLUOROSCOPY):
        return "a fluoroscopy or angiography image that is not declared free of burned-in text"
    return None


def _is_capture(dataset: pydicom.Dataset) -> bool:
    kind = "".join(letter for letter in _word(dataset.get("ImageType")) if letter.isalpha())
    return (
        dataset.get("SOPClassUID") in SECONDARY
        or bool(_word(dataset.get("ConversionType")))  # only images that were converted to DICOM have it
        or any(name in kind for name in CAPTURES)
    )


def _is_kind(dataset: pydicom.Dataset, modalities: tuple[str, ...], classes: tuple[str, ...]) -> bool:
    return _word(dataset.get("Modality")) in modalities or dataset.get("SOPClassUID") in classes


def _word(value: Any) -> str:
    """In capitals, without spaces at its ends; several values in one; "" where there is none."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    return "\\".join(str(v) for v in values).strip().upper()
