from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medfuncta_dist.archive import dicom_header
from medfuncta_dist.archive.dicom_header import WANTED, quiet, read_header
from medfuncta_dist.archive.inventory import Row
from medfuncta_dist.archive.plain_header import plain_header
from medfuncta_dist.scans.scan_key import KeyMaker
from tests.unit.archive.test_survey import slice_of

KEYS = KeyMaker(bytes(32))
FILES = sorted(p for p in Path(pydicom.__file__).parent.rglob("*") if p.is_file() and not p.suffix.startswith(".py"))


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    with quiet():
        yield


def is_plain(data: bytes) -> bool:
    return plain_header(data[: 2**16], len(data) < 2**16, WANTED) is not None


def both(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Row, Row]:
    """The row, and the one that pydicom alone gives."""
    row = read_header(io.BytesIO(data), KEYS)
    with monkeypatch.context() as patch:
        patch.setattr(dicom_header, "plain_header", lambda *arguments: None)
        return row, read_header(io.BytesIO(data), KEYS)


def test_every_file_of_pydicom_gives_what_pydicom_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = 0
    for path in FILES:
        data = path.read_bytes()
        row, expected = both(data, monkeypatch)
        assert row == expected, path.name
        plain += is_plain(data)
    assert plain > 100  # most of them; otherwise it would be pydicom that is compared with itself


def damaged(data: bytes, numbers: random.Random) -> bytes:
    """The file with one to three bytes changed, inserted or removed in its header, or cut off there."""
    made = bytearray(data)
    for _ in range(numbers.randint(1, 3)):
        at = numbers.randrange(128, min(len(made), 3000))
        kind = numbers.random()
        if kind < 0.5:
            made[at] = numbers.choice([0, 1, 2, 32, 46, 49, 92, 255, numbers.randrange(256)])
        elif kind < 0.7:
            del made[at : at + numbers.choice([1, 2, 8, 20])]
        elif kind < 0.9 or at < 300:
            made[at:at] = bytes(numbers.choice([1, 2, 8]))
        else:
            del made[at:]
    return bytes(made)


def test_damaged_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = random.Random(0)
    files = [data for path in FILES if len(data := path.read_bytes()) < 60_000 and is_plain(data)]
    plain = 0
    for _ in range(1500):
        data = damaged(numbers.choice(files), numbers)
        row, expected = both(data, monkeypatch)
        assert row == expected
        plain += is_plain(data)
    assert plain > 200


@pytest.mark.parametrize(
    ("tags", "plain"),
    [
        ({}, True),
        ({"PatientID": "Dée", "SpecificCharacterSet": "ISO_IR 100"}, False),
        ({"PatientID": "Doe\\Roe"}, False),
        ({"SpecificCharacterSet": "ISO_IR 192"}, True),
        ({"SpecificCharacterSet": "ISO_IR 13"}, False),
        ({"EchoNumbers": [1, 2], "TemporalPositionIdentifier": 3, "TriggerTime": "7.50 "}, True),
        ({"NominalPercentageOfCardiacPhase": 12.5}, True),
        ({"PatientID": None, "ImageType": ["ORIGINAL ", "PRIMARY", ""]}, True),
        ({"InstanceNumber": None, "SliceThickness": None}, True),
    ],
)
def test_unusual_values_are_left_to_pydicom(
    tags: dict[str, object], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = slice_of(1, 1, **{"patient": tags.pop("PatientID", "Doe"), **tags})  # type: ignore[arg-type]
    row, expected = both(data, monkeypatch)
    assert row == expected
    assert is_plain(data) == plain


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, None])
def test_sequences_and_syntaxes(lengths: bool, syntax: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = pydicom.dcmread(io.BytesIO(slice_of(1, 1)))
    inner = pydicom.Dataset()
    inner.SOPInstanceUID, inner.PatientID = "9.9", "Roe"
    outer = pydicom.Dataset()
    outer.ReferencedImageSequence, outer.StudyInstanceUID = [inner, inner], "8.8"
    dataset.ReferencedSeriesSequence = [outer]
    for sequence in (dataset["ReferencedSeriesSequence"], outer["ReferencedImageSequence"]):
        sequence.is_undefined_length = lengths
    for item in (inner, outer):
        item.is_undefined_length_sequence_item = lengths
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    row, expected = both(file.getvalue(), monkeypatch)
    assert row == expected
    assert is_plain(file.getvalue()) == (syntax in (ImplicitVRLittleEndian, None))
    if little and syntax != DeflatedExplicitVRLittleEndian:
        assert (row["instance"], row["study"]) == ("1.2.3.1.1", "1.2.3")


def test_a_header_that_goes_on_after_the_first_bytes_is_left_to_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    data = slice_of(1, 1)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.add_new(0x00091001, "OB", bytes(2**17))
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    row, expected = both(file.getvalue(), monkeypatch)
    assert row == expected
    assert row["instance"] == "1.2.3.1.1"
    assert not is_plain(file.getvalue())
