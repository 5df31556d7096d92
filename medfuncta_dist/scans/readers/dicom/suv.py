"""The factor from a PET image's values to its standardized uptake value by body weight (SUVbw, g/ml). Pure.

It follows the vendor-neutral pseudo-code that the Quantitative Imaging Biomarkers Alliance (QIBA) has published: the
activity per ml, divided by the injected activity per gram of body weight, both at the time to which the scanner has
corrected the decay. Nothing that the header does not say is guessed: then there is no SUV, and the reason is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pydicom

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import refusing

PET = "PT"
PHILIPS, GE = "Philips PET Private Group", "GEMS_PETD_01"
"""Private creators."""
PHILIPS_GROUP, PHILIPS_SUV, PHILIPS_ACTIVITY = 0x7053, 0x00, 0x09
GE_GROUP, GE_SCAN_TIME = 0x0009, 0x0D
LEAST_DOSE = 1e5
"""Bq. A smaller number is one of MBq: no scanner sees anything of 0.1 MBq in a patient."""
MOST_HALF_LIVES = 20.0
"""After which a millionth is left: dates that are further apart were changed, or are not this patient's."""
MOMENT = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2}) ?(\d{2}):?(\d{2})?:?(\d{2})?(\.\d{1,6})?\d*([+-]\d{4})?")


def suv_factor(dataset: pydicom.Dataset) -> float:
    """By what a PET image's values, in the units that it names, are multiplied. ScanError says why there is none."""
    with refusing(_words("a tag that it needs is damaged")):
        units = _text(dataset, "Units")
        if units == "GML":
            return _of_suv(dataset)
        if dataset.get("SharedFunctionalGroupsSequence") or int(dataset.get("NumberOfFrames") or 1) > 1:
            raise _refused("it is an enhanced file")
        if units == "BQML":
            _require_corrections(dataset)
            return _of_activity(dataset)
        if units == "CNTS":
            _require_corrections(dataset)
            return _of_counts(dataset)
        raise _refused("its values are not in Bq/ml, counts or g/ml" if units else "its units are missing")


def _words(cause: str) -> str:
    return f"a PET image without SUV: {cause} (data.pet: stored packs its values as they are)"


def _refused(cause: str) -> ScanError:
    return ScanError(_words(cause))


def _of_suv(dataset: pydicom.Dataset) -> float:
    """By default, g/ml means body weight (DICOM PS3.3, C.8.9.1, SUV Type)."""
    if _text(dataset, "SUVType") not in ("", "BW"):
        raise _refused("it holds another kind of SUV than by body weight")
    return 1.0


def _require_corrections(dataset: pydicom.Dataset) -> None:
    corrected, decay = _texts(dataset, "CorrectedImage"), _text(dataset, "DecayCorrection")
    if "ATTN" not in corrected:
        raise _refused("it is not corrected for attenuation")
    if decay not in ("START", "ADMIN", "NONE"):
        raise _refused("it does not say to which time the decay was corrected")
    if ("DECY" in corrected or "DECAY" in corrected) == (decay == "NONE"):
        raise _refused("what it says about the correction of decay is contradictory")


def _of_counts(dataset: pydicom.Dataset) -> float:
    """Philips writes counts, and a factor to SUV, or to Bq/ml, that only it knows."""
    if factor := _private(dataset, PHILIPS_GROUP, PHILIPS, PHILIPS_SUV):
        return _positive(factor, "its private factor from counts to SUV is not positive")
    if factor := _private(dataset, PHILIPS_GROUP, PHILIPS, PHILIPS_ACTIVITY):
        activity = _positive(factor, "its private factor from counts to Bq/ml is not positive")
        return activity * _of_activity(dataset)
    raise _refused("it is in counts, and nothing says what they are in Bq/ml")


def _of_activity(dataset: pydicom.Dataset) -> float:
    weight = _positive(dataset.get("PatientWeight"), "the patient's weight is missing")
    return weight * 1000 / _dose(dataset)


def _dose(dataset: pydicom.Dataset) -> float:
    """The injected activity in Bq, at the time to which the values are corrected."""
    given: Sequence[pydicom.Dataset] = dataset.get("RadiopharmaceuticalInformationSequence") or ()
    if len(given) != 1:
        raise _refused("several radiopharmaceuticals" if len(given) else "the radiopharmaceutical is missing")
    dose = _positive(given[0].get("RadionuclideTotalDose"), "the injected dose is missing")
    if dose < LEAST_DOSE:
        raise _refused("the injected dose is not in Bq")
    if _text(dataset, "DecayCorrection") == "ADMIN":
        return dose
    half_life = _positive(given[0].get("RadionuclideHalfLife"), "the half-life is missing")
    scan = _scan_time(dataset, half_life)
    seconds = (scan - _injection(dataset, given[0], scan)).total_seconds()
    if not 0 <= seconds <= MOST_HALF_LIVES * half_life:
        raise _refused("the times of injection and scan do not fit together")
    return float(dose * 2 ** (-seconds / half_life))


def _scan_time(dataset: pydicom.Dataset, half_life: float) -> datetime:
    """To which the decay of the values was corrected; without a correction, when they were measured."""
    acquired = _moment_of(dataset, "Acquisition", "the time of acquisition is missing")
    if _text(dataset, "DecayCorrection") == "NONE":
        return acquired + _average(dataset, half_life)
    series = _moment_of(dataset, "Series", "the time of the series is missing")
    if series <= acquired:
        return series
    # The series was made later, from another one.
    if scan := _private(dataset, GE_GROUP, GE, GE_SCAN_TIME):
        return _moment(str(scan), dataset)
    reference = _positive(dataset.get("FrameReferenceTime"), "the start of the scan is missing") / 1000
    return acquired - timedelta(seconds=reference) + _average(dataset, half_life)


def _average(dataset: pydicom.Dataset, half_life: float) -> timedelta:
    """From the start of a frame to when its activity was its average (DICOM PS3.3, C.8.9.4.1.5, Tave)."""
    seconds = _positive(dataset.get("ActualFrameDuration"), "the duration of the frame is missing") / 1000
    decay = math.log(2) / half_life
    return timedelta(seconds=math.log(decay * seconds / -math.expm1(-decay * seconds)) / decay)


def _injection(dataset: pydicom.Dataset, given: pydicom.Dataset, scan: datetime) -> datetime:
    """A time without a date is the last one before the scan."""
    if moment := _text(given, "RadiopharmaceuticalStartDateTime"):
        return _moment(moment, dataset)
    if not (time := _text(given, "RadiopharmaceuticalStartTime")):
        raise _refused("the time of injection is missing")
    injected = _moment(f"{scan:%Y%m%d}{time}", dataset)
    return injected if injected <= scan else injected - timedelta(days=1)


def _moment_of(dataset: pydicom.Dataset, of: str, missing: str) -> datetime:
    date, time = _text(dataset, f"{of}Date"), _text(dataset, f"{of}Time")
    if not (date and time):
        raise _refused(missing)
    return _moment(date + time, dataset)


def _moment(text: str, dataset: pydicom.Dataset) -> datetime:
    """As the clock of the scanner showed it. One in another zone is told by that where both zones are known."""
    match = MOMENT.fullmatch(text.strip())
    if match is None:
        raise _refused("a time is damaged")
    *parts, fraction, zone = match.groups()
    moment = datetime(*(int(part or 0) for part in parts)) + timedelta(seconds=float(fraction or 0))  # type: ignore[arg-type]
    here = _text(dataset, "TimezoneOffsetFromUTC")
    return moment + (_offset(here) - _offset(zone)) if zone and here else moment


def _offset(zone: str) -> timedelta:
    return datetime.strptime(zone, "%z").utcoffset() or timedelta()


def _private(dataset: pydicom.Dataset, group: int, creator: str, element: int) -> Any:
    """The value of a private element; None where the file has none. Its type is unknown where the file does not say."""
    try:
        value = dataset.private_block(group, creator)[element].value
    except KeyError:
        return None
    return value.decode("ascii").strip(" \0") if isinstance(value, bytes) else value


def _positive(value: Any, otherwise: str) -> float:
    number = 0.0 if value is None or value == "" else float(value)
    if not 0 < number < math.inf:
        raise _refused(otherwise)
    return number


def _text(dataset: pydicom.Dataset, name: str) -> str:
    return "\\".join(_texts(dataset, name))


def _texts(dataset: pydicom.Dataset, name: str) -> Sequence[str]:
    value = dataset.get(name)
    values = [] if value is None else [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    return [text for text in (str(one).strip(" \0").upper() for one in values) if text]
