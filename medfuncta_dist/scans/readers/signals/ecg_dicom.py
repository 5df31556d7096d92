"""DICOM electrocardiograms (12-lead, general, ambulatory): the waveforms of a file, with leads as channels, in mV.

Values are ``sample * sensitivity * correction + baseline`` in the unit of the channel; padding is missing (not a
number). Annotations, measurements and private elements are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES, multiplex_array

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom.file import NOT_DICOM, opened, read_dataset
from medfuncta_dist.scans.readers.dicom.patient import patient_of, study_of
from medfuncta_dist.scans.readers.reader import Found, check_size, refusing, silence_logger
from medfuncta_dist.scans.readers.signals.ecg_leads import chosen_leads, signal, to_millivolts
from medfuncta_dist.scans.readers.signals.signal_length import of_length
from medfuncta_dist.scans.scan import Scan

silence_logger("pydicom")

DAMAGED = "the DICOM waveform is damaged, or of a kind that is not read"
LEADS = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"} | {n: f"V{n - 2}" for n in range(3, 9)}
"""By the last number of a lead's code in both schemes: MDC (2:1) and SCP-ECG (5.6.3-9-1). ISO/IEEE 11073-10102."""
SCHEMES = ("MDC", "SCPECG")
COMPRESSED = ("MB", "AB")
"""Sample interpretations that are sound (mu-law, A-law)."""


class EcgDicomReader:
    """A file's recording; "group/1" where a file has several. Averaged beats beside a recording are left out."""

    name = "ecg-dicom"
    suffixes: tuple[str, ...] = ()
    """None: ``.dcm`` belongs to images."""

    def __init__(self, data: Data | None = None) -> None:
        """Without ``data``, all leads are read, at any length."""
        self.data = data

    def for_data(self, data: Data) -> EcgDicomReader:
        """The reader that follows a run file."""
        return EcgDicomReader(data)

    def scans(self, path: Path) -> Iterator[Found]:
        """The recordings. ScanError for a file without any."""
        with refusing(NOT_DICOM), opened(path) as file:
            dataset = read_dataset(file)
        if dataset.get("Modality") != "ECG":
            raise ScanError("a DICOM file that is no electrocardiogram")
        with refusing(DAMAGED):
            groups = _recordings(dataset)
            patient, study = patient_of(dataset), study_of(dataset)
        for index in groups:
            item = f"group/{index}" if len(groups) > 1 else ""
            scan = _scan_or_error(dataset, index, self.data)
            found = Found(item, None, scan, alike=True, group=patient, study=study)
            yield from of_length(found, self.data, otherwise="exact")


def _recordings(dataset: pydicom.Dataset) -> list[int]:
    """The multiplex groups to read: those that were recorded, or, where none was, those that were computed."""
    groups = list(dataset.get("WaveformSequence") or [])
    if not groups:
        raise ScanError("a DICOM file without waveforms")
    original = [i for i, group in enumerate(groups) if group.get("WaveformOriginality") != "DERIVED"]
    return original or list(range(len(groups)))


def _scan_or_error(dataset: pydicom.Dataset, index: int, data: Data | None) -> Scan | ScanError:
    try:
        with refusing(DAMAGED):
            return _scan(dataset, index, data)
    except ScanError as error:
        return error


def _scan(dataset: pydicom.Dataset, index: int, data: Data | None) -> Scan:
    group = dataset.WaveformSequence[index]
    bits, interpretation = int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation)
    if (bits, interpretation) not in WAVEFORM_DTYPES or interpretation in COMPRESSED:
        raise ScanError("a DICOM waveform whose samples are not read")
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    if check_size((channels, samples)) * bits // 8 > len(group.WaveformData):
        raise ScanError("the DICOM waveform is cut off")
    definitions = list(group.ChannelDefinitionSequence)
    if len(definitions) != channels:
        raise ScanError(DAMAGED)
    raw = multiplex_array(dataset, index)  # (sample, channel)
    padding = _padding(group, raw.dtype)
    wanted = chosen_leads([_name(channel) for channel in definitions], data)
    return signal([_values(raw[:, i], definitions[i], padding) for i in wanted], float(group.SamplingFrequency))


def _values(samples: np.ndarray, channel: pydicom.Dataset, padding: int | None) -> np.ndarray:
    """One lead in mV; missing samples are NaN."""
    sensitivity = float(channel.get("ChannelSensitivity") or 1)
    correction = float(channel.get("ChannelSensitivityCorrectionFactor") or 1)
    values = samples * sensitivity * correction + float(channel.get("ChannelBaseline") or 0)
    units = channel.get("ChannelSensitivityUnitsSequence") or []
    values = values * (to_millivolts(str(units[0].get("CodeValue", ""))) if units else 1.0)
    return values if padding is None else np.where(samples == padding, np.nan, values)


def _padding(group: pydicom.Dataset, dtype: np.dtype) -> int | None:
    """The sample that stands for none. Its element is bytes in the type of the samples, or a number."""
    value = group.get("WaveformPaddingValue")
    if value is None or value == b"":
        return None
    return int(np.frombuffer(value, dtype)[0]) if isinstance(value, bytes) else int(value)


def _name(channel: pydicom.Dataset) -> str:
    """The lead's usual name, by its code or else by what the file calls it."""
    source = (channel.get("ChannelSourceSequence") or [pydicom.Dataset()])[0]
    last = str(source.get("CodeValue", "")).replace(":", "-").rpartition("-")[2]
    if source.get("CodingSchemeDesignator") in SCHEMES and last.isdecimal() and int(last) in LEADS:
        return LEADS[int(last)]
    words = str(source.get("CodeMeaning") or channel.get("ChannelLabel") or "").split()
    return words[1] if len(words) > 1 and words[0].casefold() == "lead" else "".join(words[:1])
