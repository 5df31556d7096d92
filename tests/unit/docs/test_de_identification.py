"""docs/reference/de-identification.md against what packing really leaves of a DICOM file that is full of text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.stages.pack_stage import figures_of
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.traces import holding, unwrapped
from tests.unit.shards.samples import run_file
from tests.writers import write_dicom

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "de-identification.md"
OPTIONS = (
    "Clean Pixel Data",
    "Clean Recognizable Visual Features",
    "Clean Graphics",
    "Clean Structured Content",
    "Clean Descriptors",
    "Retain Longitudinal Temporal Information with Full Dates",
    "Retain Longitudinal Temporal Information with Modified Dates",
    "Retain Patient Characteristics",
    "Retain Device Identity",
    "Retain Institution Identity",
    "Retain UIDs",
    "Retain Safe Private",
)
TEXT = {
    "LO",
    "SH",
    "ST",
    "LT",
    "UT",
    "UC",
    "UR",
    "PN",
    "AE",
    "CS",
    "UI",
    "DA",
    "TM",
    "DT",
    "OB",
    "UN",
    "DS",
    "IS",
    "SQ",
}
READ = re.compile(
    "Modality|SOPClassUID|Rows|Columns|Photometric|PixelRepresentation|Planar|PixelData|FloatPixel|DoubleFloat|Frame(?!Of)(?!Of)"
    "|FunctionalGroups|PixelSpacing|ImagerPixel|NominalScanned|PixelAspect|ImagePosition|ImageOrientation|Rescale"
    "|ModalityLUT|VOILUT|WindowC|WindowW|PixelPadding|Palette|RealWorldValue|PixelValueTransformation|PixelIntensity"
    "|BurnedIn|RecognizableVisual|ConversionType|ImageType|LossyImage|SpacingBetween|SliceThickness|Extended|ICC"
    "|SpecificCharacterSet|TransferSyntax|DataSetTrailing|DecayFactor|Units$|PresentationLUT|Encrypted|MACP"
)
"""What decides how pixels are read: values of another kind would make another file of it."""
IN_THE_PROFILE = frozenset(
    re.findall(
        r"\w+",
        """
    AccessionNumber AcquisitionComments AcquisitionDate AcquisitionDateTime AdditionalPatientHistory AdmissionID
    AdmittingDate AdmittingDiagnosesDescription Allergies AttributeModificationDateTime BranchOfService
    ClinicalTrialSubjectID ContentCreatorName ContentDate ContrastBolusAgent CountryOfResidence DetectorID
    DeviceSerialNumber DeviceUID EthnicGroup FillerOrderNumberImagingServiceRequest FrameOfReferenceUID GantryID
    ImageComments InstanceCreatorUID InstitutionAddress InstitutionName InstitutionalDepartmentName
    IssuerOfPatientID LastMenstrualDate MedicalAlerts MedicalRecordLocator MilitaryRank MotherBirthName Occupation
    OperatorsName OrderEnteredBy OtherPatientIDs OtherPatientNames PatientAddress PatientBirthDate PatientBirthName
    PatientBirthTime PatientComments PatientID PatientMotherBirthName PatientName PatientReligiousPreference
    PatientSex PatientState PatientTelephoneNumbers PerformedProcedureStepDescription PerformingPhysicianName
    PersonName PlateID ProtocolName ReferringPhysicianName RegionOfResidence RequestAttributesSequence
    RequestedProcedureDescription RequestingPhysician ReviewerName SOPInstanceUID ScheduledPerformingPhysicianName
    SeriesDate SeriesDescription SeriesInstanceUID SeriesTime SoftwareVersions StationName StudyComments StudyDate
    StudyDescription StudyID StudyInstanceUID StudyTime TextString VerifyingObserverName
    """,
    )
)
"""Some attributes of the Basic Profile, by keyword; several left the dictionary under these names."""


def marker(vr: str, tag: int, number: int) -> tuple[object, bytes]:
    """A valid value of this kind, and what to look for."""
    text = f"MK{tag:08X}Q"
    day = (date(1801, 1, 1) + timedelta(days=number)).strftime("%Y%m%d")
    values: dict[str, tuple[object, str]] = {
        "UI": (f"1.2.826.0.7777.{tag}", f"1.2.826.0.7777.{tag}"),
        "DA": (day, day),
        "TM": (f"131415.{number:06d}", f"131415.{number:06d}"),
        "DT": (f"{day}131415.{number:06d}", f"{day}131415"),
        "DS": (f"7777{number:04d}.125", f"7777{number:04d}.125"),
        "IS": (f"7777{number:05d}", f"7777{number:05d}"),
        "UR": (f"http://{text}.example", text),
        "OB": (text.encode() + b"\0", text),
        "UN": (text.encode() + b"\0", text),
    }
    value, wanted = values.get(vr, (text, text))
    return value, wanted.lower().encode()


def filled(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Adds every attribute of pydicom's dictionary that can hold text, also inside each sequence; (keyword, wanted)."""
    for number, (tag, (vr, _, _, _, keyword)) in enumerate(sorted(DicomDictionary.items())):
        if vr not in TEXT or tag >> 16 < 8 or READ.search(keyword) or Tag(tag).is_private:
            continue
        if vr == "SQ":
            item = Dataset()
            value, wanted = f"MK{tag:08X}S", f"mk{tag:08x}s".encode()
            item.add_new(0x00100010, "PN", value)
            dataset.add_new(tag, vr, [item])
        else:
            value, wanted = marker(vr, tag, number)
            dataset.add_new(tag, vr, value)
        yield keyword, wanted
    yield from _repeating(dataset)


def _repeating(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Overlays, curves and private elements, which the dictionary lists as patterns or not at all."""
    block = dataset.private_block(0x0041, "MKPRIVATECREATOR", create=True)
    block.add_new(0x01, "LO", "MKPRIVATEVALUE")
    dataset.add_new(0x60000022, "LO", "MKOVERLAYLABEL")
    dataset.add_new(0x60003000, "OW", b"MKOVERLAYDATA\0")
    dataset.add_new(0x50003000, "OW", b"MKCURVEDATA\0\0\0")
    dataset.add_new(0xFFFCFFFC, "OB", b"MKTRAILING\0\0")
    for name in ("PRIVATECREATOR", "PRIVATEVALUE", "OVERLAYLABEL", "OVERLAYDATA", "CURVEDATA", "TRAILING"):
        yield name, f"mk{name}".lower().encode()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], str]:
    """A folder with a data set of a file that is full, and of one that is full and damaged; what to look for by
    keyword; what was said."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "archive").mkdir()
    (folder / "private").mkdir()
    (folder / "private" / "salt").write_text("c7" * 32)
    wanted: dict[str, bytes] = {}
    for name in ("MKFILENAMEwhole", "MKFILENAMEdamaged"):
        path = write_dicom(folder / "archive" / f"{name}.dcm", (16, 16), modality="CT", slope=1, intercept=-1024)
        dataset = pydicom.dcmread(path)
        wanted = dict(filled(dataset)) | {"file name": b"mkfilename"}
        dataset.BurnedInAnnotation = "NO"
        if "damaged" in name:
            dataset.PixelData = dataset.PixelData[:64]
        dataset.save_as(path, enforce_file_format=False)
    run = run_file(folder, shape=[16, 16], max_quarantined=1.0)
    summary = pack(run, map_here, lambda progress: None, fence=ALONE)
    return folder, wanted, json.dumps(figures_of(summary), default=str) + repr(summary)


def test_the_file_is_full_of_the_profiles_attributes(packed: tuple[Path, dict[str, bytes], str]) -> None:
    folder, wanted, _ = packed
    known = {keyword for _, _, _, _, keyword in DicomDictionary.values()}
    assert {name for name in IN_THE_PROFILE if name in known} <= wanted.keys()
    assert len(wanted) > 3000
    data = next(unwrapped((folder / "archive" / "MKFILENAMEwhole.dcm").read_bytes())).lower()
    assert [name for name, text in wanted.items() if text not in data and name != "file name"] == []


def test_no_attribute_is_in_anything_that_packing_writes(packed: tuple[Path, dict[str, bytes], str]) -> None:
    folder, wanted, said = packed
    assert holding(folder / "store", wanted.values()) == {}
    assert [name for name, text in wanted.items() if text in said.lower().encode()] == []


def test_what_a_shard_holds_is_what_the_page_says(packed: tuple[Path, dict[str, bytes], str]) -> None:
    folder, _, _ = packed
    run = run_file(folder, shape=[16, 16])
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    counts = snapshot.counts
    assert (counts["packed"], counts["sources_quarantined"] + counts["quarantined"]) == (1, 1)
    ((shard,),) = snapshot.splits.values()
    (row,) = read_index(store, shard).to_pylist()
    meta = json.loads(store.read_range(shard.uri, row["json_offset"], row["json_length"]))
    fields = re.search(r"A sample holds (.*?)\.\n", PAGE.read_text(), re.DOTALL)
    assert fields is not None
    assert set(re.findall(r"`(\w+)`", fields[1])) == meta.keys()
    assert meta["modality"] == "CT"


def test_every_option_has_its_row() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", PAGE.read_text(), re.MULTILINE)
    assert [option for option in OPTIONS if option not in rows] == []
    for limit in ("Faces", "burned-in", "writes no DICOM", "forget"):
        assert limit in PAGE.read_text()
