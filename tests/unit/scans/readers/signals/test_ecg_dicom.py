from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.signals.ecg_dicom import LEADS, EcgDicomReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import PYDICOM, all_found, declared
from tests.writers import PATIENT

REAL = PYDICOM / "waveform_ecg.dcm"
"""A 12-lead electrocardiogram: 10 s at 1000 Hz in µV, and a median beat of 1.2 s that was computed from it."""


def found(path: Path, samples: int = 10_000, channels: int = 12, **keys: Any) -> list[Found]:
    return all_found(EcgDicomReader(declared([samples], channels=channels, **({"length": "exact"} | keys))), path)


def scan(path: Path, *args: Any, **keys: Any) -> Scan:
    [only] = found(path, *args, **keys)
    assert isinstance(only.scan, Scan), only.scan
    return only.scan


def changed(tmp_path: Path, change: Any) -> Path:
    dataset = pydicom.dcmread(REAL)
    change(dataset, dataset.WaveformSequence[0])
    dataset.save_as(tmp_path / "a.dcm")
    return tmp_path / "a.dcm"


def test_a_real_recording_has_pydicom_s_values_in_millivolts() -> None:
    dataset = pydicom.dcmread(REAL)
    read = scan(REAL)
    np.testing.assert_allclose(read.array, dataset.waveform_array(0).T / 1000, rtol=1e-6, atol=1e-9)
    assert (read.spacing, read.modality, read.affine) == ((0.001,), "ECG", None)
    [only] = found(REAL)
    assert only.group == f"{dataset.PatientID}\\"
    assert only.study == dataset.StudyInstanceUID
    assert dataset.PatientID not in repr(only)


def test_leads_are_chosen_by_their_usual_names_or_numbers() -> None:
    whole = scan(REAL).array
    assert np.array_equal(scan(REAL, channels=3, leads=["aVR", "v6", 1]).array, whole[[3, 11, 1]])


@pytest.mark.parametrize("scheme", ["MDC", "SCPECG"])
def test_a_lead_s_name_comes_from_its_code_in_either_scheme(tmp_path: Path, scheme: str) -> None:
    def code(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
        for channel, number in zip(group.ChannelDefinitionSequence, LEADS, strict=True):
            source = channel.ChannelSourceSequence[0]
            source.CodeValue = f"2:{number}" if scheme == "MDC" else f"5.6.3-9-{number}"
            source.CodingSchemeDesignator, source.CodeMeaning = scheme, PATIENT

    whole = scan(REAL).array
    for index, name in enumerate(LEADS.values()):
        assert np.array_equal(scan(changed(tmp_path, code), channels=1, leads=[name]).array[0], whole[index])


def test_gain_correction_baseline_unit_and_padding(tmp_path: Path) -> None:
    def change(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
        channel = group.ChannelDefinitionSequence[0]
        channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = "2", "5"
        channel.ChannelSensitivityUnitsSequence[0].CodeValue = "mV"
        group.add_new("WaveformPaddingValue", "OW", np.int16(80).tobytes())

    raw = pydicom.dcmread(REAL).waveform_array(0)[:, 0] / 1.25
    expected = np.where(raw == 80, np.nan, raw * 2.5 + 5)
    assert np.isnan(expected).any()
    np.testing.assert_allclose(scan(changed(tmp_path, change)).array[0], expected, rtol=1e-6)


def test_windows_and_lengths() -> None:
    windows = found(REAL, 1500, length="windows")
    assert [f.item for f in windows] == [f"window/{i}" for i in range(6)]
    joined = np.concatenate([f.scan.array for f in windows if isinstance(f.scan, Scan)], axis=1)
    assert np.array_equal(joined, scan(REAL).array[:, :9000])
    for length in ("exact", None):
        [short] = found(REAL, 5000, length=length)
        assert isinstance(short.scan, ScanError)
        assert short.scan.what == "a signal of 10000 samples, where data.shape declares 5000"
    assert scan(REAL, 5000, length="resample").shape == (10_000,), "resampled with all scans"


def test_several_recordings_stay_together_and_a_median_beat_alone_is_read(tmp_path: Path) -> None:
    def both(dataset: pydicom.Dataset, _: pydicom.Dataset) -> None:
        dataset.WaveformSequence[1].WaveformOriginality = "ORIGINAL"

    several = found(changed(tmp_path, both))
    assert [(f.item, f.alike) for f in several] == [("group/0", True), ("group/1", True)]

    def derived(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
        del dataset.WaveformSequence[0]

    assert scan(changed(tmp_path, derived), 1200).shape == (1200,)


def test_leads_and_channels_must_agree() -> None:
    for channels in (1, 3):
        [refused] = found(REAL, channels=channels)
        assert isinstance(refused.scan, ScanError)
        assert "data.leads chooses leads" in refused.scan.what
    [missing] = found(REAL, channels=1, leads=["V9"])
    assert isinstance(missing.scan, ScanError)
    assert missing.scan.what == "no leads of the recording have a name of data.leads"


def cut(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
    group.WaveformData = group.WaveformData[:-2]


def bomb(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
    group.NumberOfWaveformSamples = 2**31


def sound(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 8, "MB"


def undefined(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
    del group.ChannelDefinitionSequence[3]


def incomplete(_: pydicom.Dataset, group: pydicom.Dataset) -> None:
    del group.SamplingFrequency


@pytest.mark.parametrize("damage", [cut, bomb, sound, undefined, incomplete])
def test_damage_is_refused_in_fixed_words(tmp_path: Path, damage: Any) -> None:
    [refused] = found(changed(tmp_path, damage))
    assert isinstance(refused.scan, ScanError)
    assert "waveform" in refused.scan.what or "values" in refused.scan.what


def test_images_and_other_waveforms_are_refused(tmp_path: Path) -> None:
    for path in (PYDICOM / "CT_small.dcm", REAL.parent / "README.txt"):
        with pytest.raises(ScanError):
            found(path)

    def hemodynamic(dataset: pydicom.Dataset, _: pydicom.Dataset) -> None:
        dataset.Modality = "HD"

    with pytest.raises(ScanError, match="no electrocardiogram"):
        found(changed(tmp_path, hemodynamic))
