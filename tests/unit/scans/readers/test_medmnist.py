from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.label_check import AS_DIGITS, AS_NUMBERING, NOT_FINITE
from medfuncta_dist.scans.readers.medmnist import MedmnistReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import all_found
from tests.writers import write_medmnist

READER = MedmnistReader()


def refusal(path: Path) -> str:
    with pytest.raises(ScanError) as error:
        all_found(READER, path)
    assert path.name not in str(error.value)
    return error.value.what


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_every_image_of_every_split_with_its_label(tmp_path: Path) -> None:
    path = write_medmnist(tmp_path / "a.npz", counts={"train": 5, "val": 3, "test": 2})
    found = all_found(READER, path)
    splits = ("train",) * 5 + ("val",) * 3 + ("test",) * 2
    assert [f.split for f in found] == list(splits)
    assert [f.item for f in found] == [f"train/{i}" for i in range(5)] + ["val/0", "val/1", "val/2", "test/0", "test/1"]
    archive = np.load(path)
    for f in found:
        assert isinstance(f.scan, Scan)
        split, row = f.item.split("/")
        assert (f.scan.array[0] == archive[f"{split}_images"][int(row)]).all()
        assert f.scan.labels == (int(archive[f"{split}_labels"][int(row), 0]),)


@pytest.mark.parametrize(
    ("shape", "expected", "modality"),
    [((6, 5), (1, 6, 5), "PX"), ((6, 5, 3), (3, 6, 5), "PX"), ((6, 5, 4), (1, 6, 5, 4), "OT")],
)
def test_grey_colour_and_volumes(tmp_path: Path, shape: tuple, expected: tuple, modality: str) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, *shape)).astype(np.uint8)
    [first, _] = all_found(READER, npz(tmp_path / "a.npz", train_images=images))
    assert isinstance(first.scan, Scan)
    assert first.scan.array.shape == expected
    assert first.scan.modality == modality
    assert first.scan.labels == ()
    last = np.moveaxis(first.scan.array, 0, -1) if shape[-1] == 3 else first.scan.array[0]
    assert (last == images[0]).all()


def test_several_labels_a_scan(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 1], [1, 0, 0]])
    found = all_found(READER, npz(tmp_path / "a.npz", val_images=np.zeros((2, 4, 4), np.uint8), val_labels=labels))
    assert [f.scan.labels for f in found if isinstance(f.scan, Scan)] == [(0, 1, 1), (1, 0, 0)]


def test_pickled_arrays_are_refused_unopened(tmp_path: Path) -> None:
    bomb = np.array([[[None]]], dtype=object)
    assert refusal(npz(tmp_path / "a.npz", train_images=bomb)) == "an array that is not numbers in C order"
    images = np.zeros((1, 4, 4), np.uint8)
    path = npz(tmp_path / "b.npz", train_images=images, train_labels=bomb)
    assert refusal(path) == "an array that is not numbers in C order"


def test_labels_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    path = npz(tmp_path / "a.npz", train_images=images, train_labels=np.zeros((3, 1), np.uint8))
    assert refusal(path) == "labels and images differ in number"
    path = npz(tmp_path / "a.npz", train_images=images, train_labels=np.zeros((2, 1, 1)))
    assert refusal(path) == "labels that are not a table"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0.0], [3.0]], [(0,), (3,)]),
        ([0.0, -1.0], [(0,), (-1,)]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_stored_as_floats_are_classes_where_all_are_whole(
    tmp_path: Path, labels: list, expected: list[tuple[int, ...]], dtype: str
) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    with np.errstate(over="ignore"):
        path = npz(tmp_path / "a.npz", train_images=images, train_labels=np.array(labels).astype(dtype))
    assert {f.label_risk for f in all_found(READER, path)} == {None}
    found = [f.scan for f in all_found(READER, path)]
    assert [scan.labels for scan in found if isinstance(scan, Scan)] == expected
    assert all(type(v) is int for scan in found if isinstance(scan, Scan) for v in scan.labels)


@pytest.mark.parametrize(
    ("labels", "expected", "risk"),
    [
        ([[0.5], [1.0]], [(0.5,), (1.0,)], None),
        ([0.1, -2.25], [(0.1,), (-2.25,)], None),
        ([[0.5, 3.0], [1.0, 4.0]], [(0.5, 3.0), (1.0, 4.0)], None),
        ([[1234567.5], [1.0]], None, AS_DIGITS),
        ([[202401.5], [1.0]], None, AS_DIGITS),
        ([[0.3141592], [1.0]], None, AS_DIGITS),
        ([[np.nan], [0.5]], None, NOT_FINITE),
        ([[np.inf], [1.0]], None, NOT_FINITE),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_that_are_no_whole_numbers_are_targets(
    tmp_path: Path, labels: list, expected: list[tuple[float, ...]] | None, risk: str | None, dtype: str
) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    found = all_found(READER, npz(tmp_path / "a.npz", train_images=images, train_labels=np.array(labels).astype(dtype)))
    assert {one.label_risk for one in found} == {risk}
    scans = [one.scan for one in found if isinstance(one.scan, Scan)]
    assert [scan.labels for scan in scans] == [(), ()]
    if expected is not None:
        assert [scan.targets for scan in scans] == expected


def test_targets_of_mostly_different_values_number_their_scans(tmp_path: Path) -> None:
    images, values = np.zeros((20, 4, 4), np.uint8), np.arange(20) / 4 + 0.5
    for labels, risk in ((values, AS_NUMBERING), (values // 2 / 4, None)):
        [*found] = all_found(READER, npz(tmp_path / "a.npz", train_images=images, train_labels=labels))
        assert {one.label_risk for one in found} == {risk}


def test_a_numbering_that_is_spread_over_splits_is_one(tmp_path: Path) -> None:
    images, numbers = np.zeros((19, 4, 4), np.uint8), 1000.5 + np.arange(19)
    splits = {"train": numbers, "val": numbers + 100, "test": numbers + 200}
    for share, risk in ((1, AS_NUMBERING), (100, None)):
        arrays = {f"{split}_images": images for split in splits}
        arrays |= {f"{split}_labels": values // share + 0.5 for split, values in splits.items()}
        found = all_found(READER, npz(tmp_path / "a.npz", **arrays))
        assert {one.label_risk for one in found} == {risk}


def test_float_images_are_read_and_channels_first_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(2, 5, 6))
    [first, _] = all_found(READER, npz(tmp_path / "a.npz", train_images=images))
    assert isinstance(first.scan, Scan)
    np.testing.assert_array_equal(first.scan.array[0], images[0].astype(np.float32))
    path = npz(tmp_path / "a.npz", train_images=np.zeros((2, 3, 8, 8), np.uint8))
    assert refusal(path) == "images of 3 x rows x columns: either colours come first, or they are volumes"


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    assert refusal(npz(tmp_path / "a.npz", x=images)) == "no train_images, val_images or test_images"
    both = npz(tmp_path / "a.npz", train_images=images, extra_images=images)
    assert refusal(both) == "images outside of the splits train, val and test"
    assert refusal(npz(tmp_path / "a.npz", train_images=np.zeros((2, 2), np.uint8)[:, :, None][:, :, :0]))
    (tmp_path / "a.npz").write_bytes(b"no zip file")
    assert refusal(tmp_path / "a.npz") == "not a readable npz file"


def test_a_flipped_bit_refuses_the_file_before_any_image_is_handed_out(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", train_images=np.zeros((50, 8, 8), np.uint8))
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    scans = READER.scans(path)
    with pytest.raises(ScanError, match="damaged"):
        next(scans)


@pytest.mark.parametrize("shape", ["(1, 4, 99999999999)", "(99999999999999999999, 4, 4)", "(2, 4, 4)", "(-1, 4, 4)"])
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(16)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train_images.npy", member)
    assert refusal(tmp_path / "a.npz") == "an array header that does not match its size"


def test_archives_larger_than_memory_are_read_one_image_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, train_images=np.zeros((400, 256, 256), np.uint8))  # 26 MB
    tracemalloc.start()
    count = sum(1 for _ in READER.scans(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < 8e6


def test_fortran_order_is_refused(tmp_path: Path) -> None:
    images = np.asfortranarray(np.arange(32, dtype=np.uint8).reshape(2, 4, 4))
    assert refusal(npz(tmp_path / "a.npz", train_images=images)) == "an array that is not numbers in C order"
