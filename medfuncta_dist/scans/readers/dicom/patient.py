"""Whose scan a DICOM file is, by its own attributes. The texts name a patient: they must not leave the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydicom

Attributes = pydicom.Dataset | Mapping[str, Any]
"""By keyword"""

PLACEHOLDERS = frozenset(
    (
        *("anon", "anonym", "anonyme", "anonymisiert", "anonymised", "anonymized", "anonymous", "deid", "deidentified"),
        *("default", "deleted", "empty", "hidden", "id", "masked", "missing", "na", "nan", "nil", "no", "noid"),
        *("noname", "none", "nopatient", "nopatientid", "notapplicable", "notavailable", "null", "patient"),
        *("patientid", "private", "pseudonym", "redacted", "removed", "unidentified", "undefined", "unk", "unknown"),
        *("unnamed", "unspecified"),
    )
)
"""What anonymisers write into every file, letters only. As a patient, such a word would be everybody."""
FILLERS = frozenset("0x")
"""A text of one of these alone (0, 0000, XXX) stands for nobody either."""


def patient_of(dataset: Attributes) -> str | None:
    """Patient ID and its issuer; None where the ID is missing, empty or a placeholder.

    Case and surrounding spaces do not count, in either. A numbered placeholder (``ANON-0042``) is a pseudonym: an ID.
    """
    patient = _text(dataset, "PatientID")
    return None if is_placeholder(patient) else f"{patient}\\{_text(dataset, 'IssuerOfPatientID')}"


def study_of(dataset: pydicom.Dataset) -> str | None:
    """The UID of the examination, or else of the series: each is one patient's. None where the file has neither."""
    return _text(dataset, "StudyInstanceUID") or _text(dataset, "SeriesInstanceUID") or None


def is_placeholder(text: str) -> bool:
    """Whether a patient's ID says nothing about who it is; signs and spaces are ignored."""
    plain = "".join(character for character in text.casefold() if character.isalnum())
    return not plain or plain in PLACEHOLDERS or (len(set(plain)) == 1 and plain[0] in FILLERS)


def _text(dataset: Attributes, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip(" \0").casefold()
