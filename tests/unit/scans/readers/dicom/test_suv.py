"""Standardized uptake values, against numbers worked out by hand.

300 MBq with a half-life of an hour are injected an hour before the scan: 150 MBq are left. Of 75 kg that is 2000 Bq per
gram; a value of 3000 Bq/ml is an SUV of 1.5.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence

from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.packing.test_dicom_series import made, only, packed, reasons, run_of
from tests.unit.scans.archive import only as only_of
from tests.unit.scans.archive import reason
from tests.writers import write_dicom, write_series

TRACER: dict[str, object] = {
    "RadionuclideTotalDose": 3e8,
    "RadionuclideHalfLife": 3600,
    "RadiopharmaceuticalStartDateTime": "20240229090000.000000",
}
PET: dict[str, object] = {
    "Units": "BQML",
    "DecayCorrection": "START",
    "CorrectedImage": ["DECY", "ATTN", "SCAT"],
    "PatientWeight": 75,
    "SeriesDate": "20240229",
    "SeriesTime": "100000",
    "AcquisitionDate": "20240229",
    "AcquisitionTime": "100500.5",
}
STORED, SLOPE = 2000, 1.5
SUV = 1.5


def with_tracer(elements: dict[str, object], **tracer: object) -> dict[str, object]:
    given = pydicom.Dataset()
    for name, value in (TRACER | tracer).items():
        if value is not None:
            setattr(given, name, value)
    return elements | {"RadiopharmaceuticalInformationSequence": Sequence([given])}


def pet(path: Path, tracer: dict[str, object] | None = None, **elements: object) -> Path:
    """An image of ``STORED``; elements of None are not in it."""
    own = {name: value for name, value in (PET | elements).items() if value is not None}
    array = np.full((4, 4), STORED, np.uint16)
    return write_dicom(path, array=array, modality="PT", slope=SLOPE, elements=with_tracer(own, **(tracer or {})))


def private(path: Path, group: int, creator: str, element: int, kind: str, value: object) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.private_block(group, creator, create=True).add_new(element, kind, value)
    dataset.save_as(path)
    return path


def suv(path: Path) -> float:
    array = only_of(DicomReader(suv=True), path).array
    assert array.dtype == np.float32
    assert array.min() == array.max()
    return float(array.max())


def test_it_is_stored_or_suv_as_asked(tmp_path: Path) -> None:
    path = pet(tmp_path / "a")
    assert suv(path) == pytest.approx(SUV, rel=1e-6)
    assert only_of(DicomReader(), path).array.max() == STORED * SLOPE


def test_other_modalities_are_as_they_are(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a")
    np.testing.assert_array_equal(only_of(DicomReader(True), path).array, only_of(DicomReader(), path).array)


@pytest.mark.parametrize(
    ("elements", "tracer", "expected"),
    [
        ({"DecayCorrection": "ADMIN"}, {}, SUV / 2),
        ({"DecayCorrection": "ADMIN", "SeriesTime": None}, {"RadionuclideHalfLife": None}, SUV / 2),
        ({"Units": "GML", "PatientWeight": None, "CorrectedImage": None}, {}, STORED * SLOPE),
        ({"Units": "GML", "SUVType": "BW"}, {}, STORED * SLOPE),
        # Across midnight, with and without a date of injection
        (
            {
                "SeriesDate": "20240301",
                "SeriesTime": "003000",
                "AcquisitionDate": "20240301",
                "AcquisitionTime": "0031",
            },
            {"RadiopharmaceuticalStartDateTime": "20240229233000"},
            SUV,
        ),
        (
            {"SeriesTime": "003000", "AcquisitionTime": "003100"},
            {"RadiopharmaceuticalStartDateTime": None, "RadiopharmaceuticalStartTime": "233000.00"},
            SUV,
        ),
        ({}, {"RadiopharmaceuticalStartDateTime": None, "RadiopharmaceuticalStartTime": "090000"}, SUV),
        # The injection by another clock, whose zone is told; by one of which only one zone is known, it is the same
        ({"TimezoneOffsetFromUTC": "+0100"}, {"RadiopharmaceuticalStartDateTime": "20240229080000+0000"}, SUV),
        ({}, {"RadiopharmaceuticalStartDateTime": "20240229090000+0100"}, SUV),
        # A series that was made later: the frame began half an hour after the scan, and took no time
        (
            {
                "SeriesTime": "180000",
                "AcquisitionTime": "103000",
                "FrameReferenceTime": 1800e3,
                "ActualFrameDuration": 1,
            },
            {},
            SUV,
        ),
        # ... or it began with the scan, and took an hour: the average is after ln(2 ln 2) / ln 2 hours
        (
            {
                "SeriesTime": "180000",
                "AcquisitionTime": "100000",
                "FrameReferenceTime": f"{math.log(2 * math.log(2)) / math.log(2) * 3600e3:.4f}",
                "ActualFrameDuration": 3600000,
            },
            {},
            SUV,
        ),
        # Decay is not corrected: on average over an hour, 1 / (2 ln 2) of the 150 MBq were there
        (
            {
                "DecayCorrection": "NONE",
                "CorrectedImage": ["ATTN"],
                "AcquisitionTime": "100000",
                "ActualFrameDuration": 3600000,
            },
            {},
            SUV * 2 * math.log(2),
        ),
        # Fluorine-18: 370 MBq, 63 min 30 s before the scan, 68.5 kg: 1 / (370e6 * 2 ** (-3810 / 6586.2) / 68500)
        (
            {"PatientWeight": 68.5},
            {
                "RadionuclideTotalDose": 370e6,
                "RadionuclideHalfLife": 6586.2,
                "RadiopharmaceuticalStartDateTime": "20240229085630",
            },
            3000 * 2.7646e-4,
        ),
    ],
)
def test_by_hand(tmp_path: Path, elements: dict[str, object], tracer: dict[str, object], expected: float) -> None:
    assert suv(pet(tmp_path / "a", tracer, **elements)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["DS", "UN"])
def test_counts_of_philips(tmp_path: Path, kind: str) -> None:
    counts, creator = pet(tmp_path / "a", Units="CNTS"), "Philips PET Private Group"
    value: dict[str, Any] = {"DS": "10", "UN": b"10"}
    private(counts, 0x7053, creator, 0x09, kind, value[kind])
    assert suv(counts) == pytest.approx(10 * SUV)  # 30000 Bq/ml
    private(counts, 0x7053, creator, 0x00, "DS", "0")  # it may be there and empty
    assert suv(counts) == pytest.approx(10 * SUV)
    value = {"DS": "0.002", "UN": b"0.002 "}
    private(counts, 0x7053, creator, 0x00, kind, value[kind])
    assert suv(counts) == pytest.approx(6)


def test_a_later_series_of_ge_says_when_the_scan_was(tmp_path: Path) -> None:
    path = pet(tmp_path / "a", SeriesTime="180000")
    assert suv(private(path, 0x0009, "GEMS_PETD_01", 0x0D, "DT", "20240229100000.00")) == pytest.approx(SUV)


@pytest.mark.parametrize(
    ("elements", "tracer", "words"),
    [
        ({"Units": None}, {}, "its units are missing"),
        ({"Units": "PROPCPS"}, {}, "its values are not in Bq/ml, counts or g/ml"),
        ({"Units": "CNTS"}, {}, "it is in counts, and nothing says what they are in Bq/ml"),
        ({"Units": "GML", "SUVType": "LBM"}, {}, "it holds another kind of SUV than by body weight"),
        ({"PatientWeight": None}, {}, "the patient's weight is missing"),
        ({"PatientWeight": 0}, {}, "the patient's weight is missing"),
        ({"CorrectedImage": ["DECY"]}, {}, "it is not corrected for attenuation"),
        ({"CorrectedImage": ["ATTN"]}, {}, "what it says about the correction of decay is contradictory"),
        ({"DecayCorrection": "NONE"}, {}, "what it says about the correction of decay is contradictory"),
        ({"DecayCorrection": None}, {}, "it does not say to which time the decay was corrected"),
        ({"SeriesDate": ""}, {}, "the time of the series is missing"),
        ({"AcquisitionTime": None}, {}, "the time of acquisition is missing"),
        ({"SeriesTime": "180000"}, {}, "the start of the scan is missing"),
        ({}, {"RadionuclideTotalDose": None}, "the injected dose is missing"),
        ({}, {"RadionuclideTotalDose": 300}, "the injected dose is not in Bq"),
        ({}, {"RadionuclideHalfLife": None}, "the half-life is missing"),
        ({}, {"RadiopharmaceuticalStartDateTime": None}, "the time of injection is missing"),
        ({}, {"RadiopharmaceuticalStartDateTime": "20240229100001"}, "the times of injection and scan do not fit"),
        ({}, {"RadiopharmaceuticalStartDateTime": "19000229090000"}, "a tag that it needs is damaged"),
        ({}, {"RadiopharmaceuticalStartDateTime": "20140228090000"}, "the times of injection and scan do not fit"),
        ({"SeriesTime": "10 o'clock"}, {}, "a time is damaged"),
    ],
)
def test_what_has_no_suv_is_refused_by_name(
    tmp_path: Path, elements: dict[str, object], tracer: dict[str, object], words: str
) -> None:
    path = pet(tmp_path / "a.dcm", tracer, **elements)
    said = reason(DicomReader(suv=True), path)
    assert said.startswith(f"a PET image without SUV: {words}")
    assert said.endswith("(data.pet: stored packs its values as they are)")
    assert only_of(DicomReader(), path).array.max() == STORED * SLOPE


def test_without_or_with_two_tracers(tmp_path: Path) -> None:
    path = pet(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    for given, words in (([], "the radiopharmaceutical is"), ([pydicom.Dataset()] * 2, "several radiopharmaceuticals")):
        dataset.RadiopharmaceuticalInformationSequence = Sequence(given)
        dataset.save_as(path)
        assert words in reason(DicomReader(suv=True), path)


# Data sets


def test_a_new_data_set_has_suv_with_one_window_per_series_and_refuses_what_has_none(tmp_path: Path) -> None:
    elements = with_tracer(PET) | {"Modality": "PT"}
    write_series(tmp_path / "archive", made(), **elements)
    write_series(tmp_path / "archive", made(1), name="bad", **(elements | {"PatientWeight": ""}))
    run = run_of(tmp_path)
    summary = packed(run)
    said = "a PET image without SUV: the patient's weight is missing (data.pet: stored packs its values as they are)"
    assert reasons(summary) == {said: 1}
    stored = made()[::-1, ::-1].transpose(1, 0, 2) - 1024.0
    np.testing.assert_allclose(only(run).array[0], stored[::1, ::1] / 2000, rtol=1e-5)
    assert load_snapshot(ObjectStore(run.storage), run.dataset, None).contract["pet"] == "suv"


def test_every_image_of_a_series_is_in_suv(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made(), **(with_tracer(PET) | {"Modality": "PT"}))
    run = run_of(tmp_path, shape=[12, 10])
    assert packed(run).counts["packed"] == 8


def test_an_earlier_data_set_goes_on_with_what_is_stored(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made(), **(with_tracer(PET) | {"Modality": "PT"}))
    run = run_of(tmp_path, pet="stored")
    digest = packed(run).snapshot_digest
    assert "pet" not in load_snapshot(ObjectStore(run.storage), run.dataset, None).contract
    assert packed(run_of(tmp_path)).snapshot_digest == digest
    assert only(run).array.min() == -1024
    with pytest.raises(RunChangedError, match=r"data\.pet"):
        packed(run_of(tmp_path, pet="suv"))
