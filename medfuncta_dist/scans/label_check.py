"""Whether labels look like identifiers, in fixed words: no value is ever part of them.

A label is a class. A date, a number of many digits or a name in its place says who a scan is of, and would be in
shards, tables and reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

FEW = 20
"""Scans: of fewer, nobody can tell classes from numbers that differ for each scan."""
MOSTLY = 0.5
"""Share of different values above which a column numbers its scans."""
MOST_CLASSES = 4096
DIGITS_OF_NUMBER = 7
SMALLEST_NUMBER = 10 ** (DIGITS_OF_NUMBER - 1)
"""Of seven digits: hospitals number patients, examinations and days with six to ten."""
DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{1,2}:\d{2}")
DIGITS = re.compile(r"\d{7}")
UID = re.compile(r"[0-9]+(\.[0-9]+){4,}")
LONGEST_CLASS = 64
MOST_WORDS = 6

AS_DATE = "labels look like dates (yyyymmdd)"
AS_NUMBER = "labels look like identifiers: whole numbers of seven digits or more"
AS_NUMBERING = f"labels look like identifiers: more than half of the values differ (of {FEW} or more)"
TOO_MANY = f"labels look like identifiers: more than {MOST_CLASSES} different values"
AS_DIGITS = "labels look like identifiers: numbers of seven digits or more, with their decimals"
NOT_FINITE = "labels that are no finite numbers (data.identifying_labels: drop packs scans without them)"
"""They cannot be kept, whatever the run file says."""
TEXT_DATE = "it looks like dates or times"
TEXT_NUMBER = "it looks like identifiers with seven digits or more in a row"
TEXT_UID = "it looks like DICOM UIDs"
TEXT_NAME = "it looks like names of persons (with ^)"
TEXT_LONG = "it looks like free text"
TEXT_NUMBERING = f"it looks like identifiers: more than half of the texts differ (of {FEW} or more)"


def risk_of_values(labels: Iterable[int]) -> str | None:
    """Why one scan's labels look like identifiers; None where they do not."""
    large = [abs(label) for label in labels if abs(label) >= SMALLEST_NUMBER]
    if not large:
        return None
    return AS_DATE if all(map(_is_day, large)) else AS_NUMBER


def risk_of_columns(values: np.ndarray) -> str | None:
    """The same for all labels of a file or table, (scan, label) integers: columns that number their scans too."""
    large = np.unique(values[np.abs(values.astype(np.float64)) >= SMALLEST_NUMBER])
    if risk := risk_of_values(large.tolist()):
        return risk
    return _risk_of_numbering(values)


def risk_of_targets(values: np.ndarray) -> str | None:
    """The same for labels that are measurements, (scan, label) floats: digits count on both sides of the point, as a
    float of their type is written."""
    if not np.isfinite(values).all():
        return NOT_FINITE
    if risk := _risk_of_numbering(values):
        return risk
    long = (len(_digits(value)) >= DIGITS_OF_NUMBER for value in np.unique(values))
    return AS_DIGITS if any(long) else None


def _risk_of_numbering(values: np.ndarray) -> str | None:
    for column in values.T:
        different = len(np.unique(column))
        if different > MOST_CLASSES:
            return TOO_MANY
        if len(column) >= FEW and different > MOSTLY * len(column):
            return AS_NUMBERING
    return None


def _digits(value: np.floating) -> str:
    """From the first that is not zero to the last one."""
    return np.format_float_positional(np.abs(value), trim="-").replace(".", "").lstrip("0")


def risk_of_texts(texts: Sequence[str]) -> str | None:
    """Why a column of texts looks like anything but classes; None where it does not."""
    different = set(texts)
    kinds = {
        TEXT_UID: lambda text: UID.fullmatch(text),
        TEXT_DATE: lambda text: DATE.search(text),
        TEXT_NUMBER: lambda text: DIGITS.search(text),
        TEXT_NAME: lambda text: "^" in text,
        TEXT_LONG: lambda text: len(text) > LONGEST_CLASS or len(text.split()) > MOST_WORDS,
    }
    for risk, looks_so in kinds.items():
        if any(map(looks_so, different)):
            return risk
    return TEXT_NUMBERING if len(texts) >= FEW and len(different) > MOSTLY * len(texts) else None


def _is_day(number: int) -> bool:
    year, month, day = number // 10_000, number // 100 % 100, number % 100
    return 1880 <= year < 2200 and 1 <= month <= 12 and 1 <= day <= 31
