from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuncta_dist.config.sections.data_section import Data, Slabs, Slices
from medfuncta_dist.errors import DiskFullError, IntegrityError, ScanError, StorageError
from medfuncta_dist.packing import source_reader
from medfuncta_dist.packing.source_reader import (
    BlankSlices,
    EncodedScan,
    Event,
    SourceReader,
    UnusableScan,
    UnusableSource,
)
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.scans.label_check import AS_DIGITS, NOT_FINITE
from medfuncta_dist.scans.readers.nifti import HALF_OF_PAIR
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.scans.archive import edited
from tests.writers import (
    write_dicom,
    write_ecg_csv,
    write_enhanced_dicom,
    write_medmnist,
    write_nifti,
    write_nifti_pair,
    write_png,
)

KEYS = KeyMaker(bytes(32))


def events(path: Path, data: Data, split: str | None = None) -> list[Event]:
    source = PackSource(KEYS.source_key(path.name), str(path), path.name, split)
    return list(SourceReader(data, KEYS).events(source))


def encoded(path: Path, data: Data, split: str | None = None) -> list[EncodedScan]:
    found = events(path, data, split)
    assert all(isinstance(event, EncodedScan | BlankSlices) for event in found), found
    return [event for event in found if isinstance(event, EncodedScan)]


def data(**fields: object) -> Data:
    return Data.model_validate({"source": "unused", "shape": [28, 28]} | fields)


def test_a_picture_is_one_scan(tmp_path: Path) -> None:
    [event] = encoded(write_png(tmp_path / "a.png"), data())
    sample = decode(event.key, event.npy, event.json)
    assert event.key == KEYS.scan_key("a.png", "")
    assert sample.array.shape == (1, 28, 28)
    assert 0.3 < sample.values().max() <= 1


@pytest.mark.parametrize("way", ["refuse", "keep", "drop"])
@pytest.mark.parametrize(
    ("labels", "risk"), [([[0.5], [1.0]], None), ([[1234567.5], [1.0]], AS_DIGITS), ([[np.nan], [1.0]], NOT_FINITE)]
)
def test_labels_that_are_no_whole_numbers_are_never_left_out_unasked(
    tmp_path: Path, way: str, labels: list[list[float]], risk: str | None
) -> None:
    """Neither those of their split, nor are whole ones of another split lost."""
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    splits = {"train": labels, "test": [[3.0], [4.0]]}
    arrays = {f"{split}_labels": np.array(values) for split, values in splits.items()}
    np.savez(tmp_path / "a.npz", train_images=images, test_images=images, **arrays)
    found = events(tmp_path / "a.npz", data(identifying_labels=way))
    samples = {e.item: decode(e.key, e.npy, e.json) for e in found if isinstance(e, EncodedScan)}
    packed = {item: (sample.labels, sample.targets) for item, sample in samples.items()}
    refused = {event.item: event.reason for event in found if isinstance(event, UnusableScan)}
    of_train = {f"train/{row}": ((), () if way == "drop" else tuple(values)) for row, values in enumerate(labels)}
    of_test = {"test/0": ((3,), ()), "test/1": ((4,), ())}
    if way == "drop" or risk is None or (way == "keep" and risk == AS_DIGITS):
        assert (packed, refused) == (of_train | of_test, {})
    else:
        assert (packed, refused) == (of_test, {"train/0": risk, "train/1": risk})


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"BurnedInAnnotation": "YES"}, "text is burned into"),
        ({"RecognizableVisualFeatures": "YES"}, "recognised"),
        ({"ConversionType": "WSD"}, "secondary capture"),
        ({"Modality": "US"}, "ultrasound"),
    ],
)
def test_burned_in_text_is_quarantined_unless_the_run_file_keeps_it(
    tmp_path: Path, elements: dict[str, object], words: str
) -> None:
    path = edited(write_dicom(tmp_path / "a.dcm"), **elements)
    [refused] = events(path, data())
    assert isinstance(refused, UnusableScan)
    assert words in refused.reason
    [kept] = encoded(path, data(burned_in="keep"))
    assert kept.released
    [plain] = encoded(write_dicom(tmp_path / "b.dcm"), data(burned_in="keep"))
    assert not plain.released


def test_frames_of_one_recording_are_in_one_split(tmp_path: Path) -> None:
    frames = np.arange(40 * 16, dtype=np.uint16).reshape(40, 4, 4)
    splits = set()
    for n in range(12):
        found = encoded(write_dicom(tmp_path / f"{n}.dcm", array=frames, frames=40), data(group="source"))
        assert len({event.key for event in found}) == 40
        [split] = {event.split for event in found}
        splits.add(split)
    assert len(splits) > 1


def test_volumes_of_one_file_are_in_one_split(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 4, 4, 6)).astype(np.int16)
    splits = set()
    for n in range(12):
        found = encoded(
            write_nifti(tmp_path / f"{n}.nii.gz", array=array, affine=np.eye(4)), data(shape=[4, 4, 4], group="source")
        )
        assert [event.item for event in found] == [f"volume/{t}" for t in range(6)]
        assert len({event.key for event in found}) == 6
        [split] = {event.split for event in found}
        splits.add(split)
    assert len(splits) > 1
    [one] = encoded(tmp_path / "0.nii.gz", data(shape=[4, 4, 4], volume=4))
    assert (one.key, one.item) == (KEYS.scan_key("0.nii.gz", "volume/4"), "volume/4")
    np.testing.assert_array_equal(decode(one.key, one.npy, one.json).array[0], array[..., 4])


def test_a_map_of_labels_is_quarantined_unless_the_run_file_keeps_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(64, dtype=np.uint8).reshape(4, 4, 4), np.eye(4))
    image.header["intent_code"] = 1002
    nib.save(image, tmp_path / "a.nii")
    [refused] = events(tmp_path / "a.nii", data(shape=[4, 4, 4]))
    assert isinstance(refused, UnusableScan)
    assert refused.reason == "a segmentation, as the file says (data.masks: keep packs it)"
    assert len(encoded(tmp_path / "a.nii", data(shape=[4, 4, 4], masks="keep"))) == 1


@pytest.mark.parametrize("listed", [".hdr", ".img"])
def test_a_pair_in_s3_is_read_with_the_file_beside_it(tmp_path: Path, s3: Callable[[], str], listed: str) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 4, 4)).astype(np.int16)
    store = ObjectStore(s3())
    for path in write_nifti_pair(tmp_path, "Doe", array=array, affine=np.eye(4)):
        store.write(path.name, path.read_bytes())
    source = PackSource(KEYS.source_key("Doe.img"), store.uri(f"Doe{listed}"), "Doe.img")
    [found] = SourceReader(data(shape=[4, 4, 4]), KEYS).events(source)
    assert isinstance(found, EncodedScan)
    np.testing.assert_array_equal(decode(found.key, found.npy, found.json).array[0], array)
    store.delete("Doe.hdr" if listed == ".img" else "Doe.img")
    [half] = SourceReader(data(shape=[4, 4, 4]), KEYS).events(source)
    assert half == UnusableSource(HALF_OF_PAIR)


def test_every_slice_of_a_multi_frame_volume_is_packed(tmp_path: Path) -> None:
    frames = np.arange(3 * 32 * 32, dtype=np.int16).reshape(3, 32, 32)
    path = write_enhanced_dicom(tmp_path / "a.dcm", frames, [(0, 0, z) for z in range(3)])
    assert [e.item for e in encoded(path, data(slices={"axis": 2}))] == ["slice/0", "slice/1", "slice/2"]
    [whole] = events(path, data())
    assert isinstance(whole, UnusableScan)
    assert whole.reason == "expected 2 axes, found 3"


def test_splits_and_labels_of_an_npz_are_kept(tmp_path: Path) -> None:
    found = encoded(write_medmnist(tmp_path / "a.npz", counts={"train": 3, "test": 2}), data())
    assert [(e.item, e.split) for e in found] == [
        ("train/0", "train"),
        ("train/1", "train"),
        ("train/2", "train"),
        ("test/0", "test"),
        ("test/1", "test"),
    ]
    assert [decode(e.key, e.npy, e.json).labels for e in found] == [(0,), (1,), (0,), (0,), (1,)]


def test_a_split_of_the_run_file_goes_before_the_file_s_own(tmp_path: Path) -> None:
    found = encoded(write_medmnist(tmp_path / "a.npz", counts={"train": 2, "test": 1}), data(), split="hold")
    assert {e.split for e in found} == {"hold"}


def test_slices_are_scans_with_the_volume_s_window(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", shape=(24, 28, 20))
    found = encoded(path, data(slices=Slices(axis=2)))
    assert [e.item for e in found] == [f"slice/{i}" for i in range(20)]
    samples = [decode(e.key, e.npy, e.json) for e in found]
    assert [s.meta["slice"] for s in samples] == list(range(20))
    assert len({s.window for s in samples}) == 1
    assert len({e.key for e in found}) == 20


def test_slices_of_one_volume_are_not_parted_by_chance(tmp_path: Path) -> None:
    splits = set()
    for n in range(12):
        path = write_nifti(tmp_path / f"{n}.nii.gz", shape=(8, 8, 6))
        found = encoded(path, data(slices=Slices(), fractions={"train": 0.5, "test": 0.5}))
        assert len({e.split for e in found}) == 1
        splits.add(found[0].split)
    assert splits == {"train", "test"}


def test_slabs_part_slices_by_place(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", shape=(8, 8, 12))
    found = encoded(path, data(slices=Slices(), slabs=Slabs(size=3, period=3, gap=1)))
    assert [e.split for e in found] == ["train"] * 5 + ["gap"] + ["test"] * 3 + ["gap"] + ["train"] * 2


def test_blank_slices_are_counted_and_are_no_scans(tmp_path: Path) -> None:
    array = np.zeros((8, 8, 10), np.int16)
    array[:, :, 3:7] = np.arange(64).reshape(8, 8, 1) + 50
    path = write_nifti(tmp_path / "a.nii.gz", array=array)
    found = events(path, data(slices=Slices(min_foreground=0.5)))
    assert [e.item for e in found if isinstance(e, EncodedScan)] == [f"slice/{i}" for i in range(3, 7)]
    assert found[-1] == BlankSlices(6)


def test_a_bad_row_leaves_its_neighbours_as_they_are(tmp_path: Path) -> None:
    path = write_ecg_csv(tmp_path / "a.csv", rows=5)
    whole = encoded(path, data(shape=[187]))
    lines = path.read_text().splitlines()
    lines[2] = "nan," + lines[2].split(",", 1)[1]
    path.write_text("\n".join(lines))
    found = events(path, data(shape=[187]))
    assert [type(e) for e in found] == [EncodedScan, EncodedScan, UnusableScan, EncodedScan, EncodedScan]
    assert [found[i] for i in (0, 1, 3, 4)] == [whole[i] for i in (0, 1, 3, 4)]
    assert isinstance(found[2], UnusableScan)
    assert found[2].key == whole[2].key


def test_a_file_that_can_not_be_read_is_a_bad_source(tmp_path: Path) -> None:
    path = tmp_path / "Doe^Jane.npz"
    path.write_bytes(b"not a zip, but Doe^Jane's")
    [event] = events(path, data())
    assert isinstance(event, UnusableSource)
    assert "Doe" not in event.reason


def test_a_scan_of_another_dimension_is_a_bad_scan(tmp_path: Path) -> None:
    [event] = events(write_nifti(tmp_path / "a.nii.gz"), data())
    assert isinstance(event, UnusableScan)
    assert event.key == KEYS.scan_key("a.nii.gz", "")


GOOD = Scan(np.ones((1, 4, 4), np.uint8), (1.0, 1.0), None, "OT")


class BrokenReader:
    """Two scans, and then whatever it is told to raise: what a library does when a file breaks off."""

    def __init__(self, error: Exception, items: tuple[str, ...] = ("0", "1")) -> None:
        self.error, self.items = error, items

    def scans(self, path: Path) -> Iterator[Found]:
        for item in self.items:
            yield Found(item, None, GOOD)
        raise self.error


def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reader: BrokenReader) -> list[Event]:
    monkeypatch.setattr(source_reader, "configured_reader", lambda data, uri: reader)
    return events(write_png(tmp_path / "a.png"), data(shape=[4, 4]))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ScanError("the file ends early"), "the file ends early"),
        (ValueError("Doe^Jane"), "the reader failed: ValueError"),
        (OSError("image file is truncated"), "the reader failed: OSError"),
        (OSError(errno.EINVAL, "a seek to before the file's start"), "the reader failed: OSError"),
    ],
)
def test_a_source_that_breaks_off_keeps_its_scans_up_to_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, reason: str
) -> None:
    found = broken(monkeypatch, tmp_path, BrokenReader(error))
    assert [type(e) for e in found] == [EncodedScan, EncodedScan, UnusableSource]
    assert found[-1] == UnusableSource(reason)


@pytest.mark.parametrize("error", [StorageError("no answer"), MemoryError()])
def test_what_is_not_the_source_s_fault_is_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error)):
        broken(monkeypatch, tmp_path, BrokenReader(error))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFullError), (errno.EMFILE, StorageError), (errno.ESTALE, StorageError)],
)
def test_a_machine_that_lacks_something_does_not_quarantine_its_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, kind: type[StorageError]
) -> None:
    error = OSError(number, "of this machine", "/archive/Doe^Jane.nii")
    with pytest.raises(kind) as caught:
        broken(monkeypatch, tmp_path, BrokenReader(error))
    assert "Doe" not in "".join(traceback.format_exception(caught.value))


def test_two_scans_with_one_key_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="same key"):
        broken(monkeypatch, tmp_path, BrokenReader(ScanError("end"), items=("0", "1", "0")))


def test_a_transform_that_fails_costs_one_scan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(scan: Scan, data: Data) -> Scan:
        raise FloatingPointError("Doe^Jane")

    monkeypatch.setattr(source_reader, "canonical", fails)
    [event] = events(write_png(tmp_path / "a.png"), data())
    assert isinstance(event, UnusableScan)
    assert event.reason == "the canonical transform failed: FloatingPointError"
