"""DICOM series of files that lie anywhere: what becomes of them in a data set."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medfuncta_dist.archive import series_sums, survey
from medfuncta_dist.archive.inventory import INVENTORY, read_inventory
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError, RunFileError
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.forget.patient_names import PatientName
from medfuncta_dist.integrity.repair_shards import UNTOLD, repair_shards
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.packing.pack_task import PackTask
from medfuncta_dist.packing.source_reader import SCATTERED
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.scans.readers.dicom.stacks import (
    AMBIGUOUS,
    DERIVED,
    DUPLICATE,
    GAP,
    LOCALIZER,
    MIXED,
    NO_GEOMETRY,
    SINGLE,
    TILTED,
)
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.storage.s3.s3_objects import S3Objects
from medfuncta_dist.task_map import Done, Failed, map_here
from tests.mapping_rows import read_mapping
from tests.unit.packing.repairs import require_same_after_repair
from tests.unit.scans.archive import NIBABEL
from tests.unit.shards.samples import objects, run_file
from tests.writers import PATIENT_ID, structured, write_dicom, write_enhanced_dicom, write_nifti, write_series

SHAPE = (12, 10, 8)
"""Rows, columns, slices"""


def made(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(row, column, slice) int16 as stored: 0 is −1024 HU."""
    return np.rint(structured(shape, seed) * 3000).astype(np.int16)


def run_of(folder: Path, **data: object) -> RunFile:
    """It packs volumes as they are: array (right, anterior, superior) has the shape (column, row, slice)."""
    defaults: dict[str, object] = {"shape": [10, 12, 8], "aspect": "stretch", "max_quarantined": 1.0}
    return run_file(folder, name="ct", **(defaults | data))


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def samples(run: RunFile) -> dict[str, tuple[str, str, Sample]]:
    """Key → split, item and sample of every scan of the newest snapshot."""
    store, found = ObjectStore(run.storage), {}
    for split, shards in load_snapshot(store, run.dataset, None).splits.items():
        for shard in shards:
            tar = store.read(shard.uri)
            for row in read_index(store, shard).to_pylist():
                npy, json = (tar[row[f"{member}_offset"] :][: row[f"{member}_length"]] for member in ("npy", "json"))
                found[row["key"]] = split, row["item"], decode(row["key"], npy, json)
    return found


def only(run: RunFile) -> Sample:
    [(_, _, sample)] = samples(run).values()
    return sample


def instances(summary: PackSummary) -> tuple[int, ...]:
    """Files of series: all, packed, quarantined, left out."""
    names = ("instances", "instances_packed", "instances_quarantined", "instances_left_out")
    return tuple(summary.counts.get(name, 0) for name in names)


def reasons(summary: PackSummary) -> dict[str, int]:
    return dict(Counter(entry["reason"] for entry in summary.quarantined))


def in_ras(volume: np.ndarray) -> np.ndarray:
    """(row, column, slice) of axial slices: columns run to the left and rows to the back (LPS), so both turn."""
    return volume.transpose(1, 0, 2)[::-1, ::-1]


def test_a_scrambled_series_in_three_folders_is_one_volume(tmp_path: Path) -> None:
    volume = made(shape=(16, 16, 40))
    write_series(tmp_path / "archive", volume, seed=3)
    run = run_of(tmp_path, shape=[16, 16, 40])
    summary = packed(run)
    sample = only(run)
    assert summary.counts["sources"] == summary.counts["packed"] == 1
    assert instances(summary) == (40, 40, 0, 0)
    np.testing.assert_array_equal(sample.array[0], in_ras(volume) - 1024)
    assert sample.array.min() == -1024
    assert sample.meta["spacing"] == [3, 3, 4]
    # LPS of the first pixel: (-90, -80, -70); the last column and row are the most left and the most back.
    expected = np.diag([3.0, 3, 4, 1])
    expected[:3, 3] = [90 - 15 * 3, 80 - 15 * 3, -70]
    np.testing.assert_allclose(sample.meta["affine"], expected, atol=1e-9)


@given(seed=st.integers(0, 2**32), folders=st.integers(1, 8))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_neither_names_nor_order_nor_folders_of_files_matter(tmp_path: Path, seed: int, folders: int) -> None:
    digests = []
    for name, how in {"one": (0, 3), "two": (seed, folders)}.items():
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        write_series(folder / "archive", made(), seed=how[0], folders=how[1])
        (folder / "private").mkdir()
        (folder / "private" / "salt").write_text("5" * 64)
        digests.append(packed(run_of(folder)).snapshot_digest)
    assert digests[0] == digests[1]


def test_two_series_in_a_folder_are_two_volumes_and_oblique_ones_keep_their_affine(tmp_path: Path) -> None:
    volume = made()
    write_series(tmp_path / "archive", volume, name="a", folders=1)
    turn = [0.0, 1, 0, 0, 0, -1]  # sagittal: rows run to the back, columns down
    paths = write_series(tmp_path / "archive", made(1), name="b", folders=1)
    for index, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = turn, [index * 4.0, -80, -70]
        dataset.save_as(path)
    run = run_of(tmp_path, shape=[8, 10, 12])
    assert packed(run).counts["packed"] == 2
    found = [sample for _, _, sample in samples(run).values()]
    [sagittal] = [sample for sample in found if sample.meta["spacing"] == [4, 3, 3]]
    expected = (made(1) - 1024).transpose(2, 1, 0)[::-1, ::-1, ::-1]  # slices left to right, columns back, rows down
    np.testing.assert_array_equal(sagittal.array[0], expected)


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        (GAP, {"skip": (3,)}),
        (MIXED, {"heights": np.cumsum([0, 4, 4, 4, 4, 2, 2, 2.0])}),
        (TILTED, {"sideways": 1.0}),
        (DERIVED, {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        (LOCALIZER, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        (NO_GEOMETRY, {"ImageOrientationPatient": [0.0] * 6}),
        (AMBIGUOUS, {"heights": np.repeat([0.0, 4, 8, 12], 2)}),
    ],
)
def test_what_makes_no_volume_is_quarantined_once_with_its_reason(
    tmp_path: Path, reason: str, how: dict[str, Any]
) -> None:
    write_series(tmp_path / "archive", made(), name="good")
    write_series(tmp_path / "archive", made(1), name="bad", **how)
    run = run_of(tmp_path)
    preview = preview_pack(run, lambda done, total: None).dicom
    summary = packed(run)
    files = 8 - len(how.get("skip", ()))
    assert reasons(summary) == {reason: 1}
    assert instances(summary) == (8 + files, 8, files, 0)
    assert preview is not None
    assert (preview.volumes, preview.usable, preview.reasons) == (1, 8, {reason: files})


@pytest.mark.parametrize(
    ("key", "how"),
    [
        ("gap", {"skip": (3,)}),
        ("mixed", {"heights": np.cumsum([0, 4, 4, 4, 4, 2, 2, 2.0])}),
        ("tilted", {"sideways": 1.0}),
        ("derived", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("other", {"ImageOrientationPatient": [0.0] * 6}),
    ],
)
def test_what_the_run_file_leaves_out_is_counted_and_not_listed(tmp_path: Path, key: str, how: dict[str, Any]) -> None:
    write_series(tmp_path / "archive", made(), name="good")
    write_series(tmp_path / "archive", made(1), name="bad", **how)
    summary = packed(run_of(tmp_path, series={key: "leave_out"}))
    files = 8 - len(how.get("skip", ()))
    assert summary.quarantined == []
    assert instances(summary) == (8 + files, 8, 0, files)


def test_localizers_and_derived_images_are_taken_where_asked(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made(), ImageType=["DERIVED", "SECONDARY", "LOCALIZER"])
    run = run_of(tmp_path, series={"derived": "keep", "localizer": "keep"})
    assert instances(packed(run)) == (8, 8, 0, 0)
    np.testing.assert_array_equal(only(run).array[0], in_ras(made()) - 1024)


def ramp(heights: Sequence[float]) -> np.ndarray:
    """A volume whose values are linear in height: 100 per mm above the first slice; and in column: 10 per pixel."""
    rows, columns = SHAPE[:2]
    plane = np.broadcast_to(10 * np.arange(columns), (rows, columns))
    return np.stack([plane + 100 * height for height in heights], axis=-1).astype(np.int16)


@pytest.mark.parametrize(
    ("key", "heights", "step"),
    [("gap", [0, 4, 8, 12, 20, 24, 28, 32.0], 4), ("mixed", [0, 4, 8, 12, 14, 16, 18, 20, 22.0], 2)],
)
def test_missing_and_mixed_slices_are_interpolated_where_asked(
    tmp_path: Path, key: str, heights: list[float], step: float
) -> None:
    write_series(tmp_path / "archive", ramp(heights), heights=heights)
    count = int(heights[-1] / step) + 1
    run = run_of(tmp_path, series={key: "resample"}, shape=[10, 12, count])
    assert reasons(packed(run)) == {}
    sample = only(run)
    assert sample.meta["spacing"] == [3, 3, step]
    np.testing.assert_array_equal(sample.array[0], in_ras(ramp(np.arange(count) * step)) - 1024)


def test_a_tilted_gantry_is_shifted_back_where_asked(tmp_path: Path) -> None:
    """Each slice lies 1.5 mm, half a pixel, further along its rows: values that are linear there stay so."""
    heights = np.arange(8) * 4.0
    tilted = np.stack([ramp([h])[:, :, 0] + 5 * i for i, h in enumerate(heights)], axis=-1)
    write_series(tmp_path / "archive", tilted, sideways=1.5)
    run = run_of(tmp_path, series={"tilted": "resample"}, shape=[14, 12, 8])
    assert reasons(packed(run)) == {}
    sample = only(run)
    assert sample.meta["spacing"] == [3, 3, 4]
    # The plane covers 3.5 pixels more. Slice 0 fills the first 10 columns, and the last slice the last 10 but a half.
    flipped = sample.array[0][::-1, ::-1]
    world = 10 * np.arange(14)[:, None, None] + 100 * heights - 1024
    shift = np.arange(8) / 2
    inside = (np.arange(14)[:, None] >= np.ceil(shift)) & (np.arange(14)[:, None] <= np.floor(9 + shift))
    expected = np.broadcast_to(world, (14, 12, 8))
    mask = np.broadcast_to(inside[:, None, :], expected.shape)
    np.testing.assert_array_equal(flipped[mask], expected[mask])
    assert (
        flipped[
            ~np.broadcast_to(
                ((np.arange(14)[:, None] > shift - 1) & (np.arange(14)[:, None] < 10 + shift))[:, None, :],
                expected.shape,
            )
        ]
        == -1024
    ).all()
    expected_affine = np.diag([3.0, 3, 4, 1])
    expected_affine[:3, 3] = [90 - 13 * 3, 80 - 11 * 3, -70]
    np.testing.assert_allclose(sample.meta["affine"], expected_affine, atol=1e-9)


def named(private: Path, instances: Iterable[str]) -> str:
    """The item of the volume of images with these identifiers."""
    keys = KeyMaker(load_salt(private))
    return f"volume/{min(keys.property_key('instance', instance) for instance in instances)}"


def test_phases_echoes_and_times_of_one_series_are_volumes_of_their_own(tmp_path: Path) -> None:
    for number, echo in enumerate(("1", "2")):
        paths = write_series(tmp_path / "archive" / echo, made(number), name="echo", seed=number, EchoNumbers=echo)
        for index, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = f"1.2.{number}.{index}"
            dataset.save_as(path)
    run = run_of(tmp_path)
    summary = packed(run)
    assert (summary.counts["sources"], instances(summary)) == (1, (16, 16, 0, 0))
    found = {item: sample.array[0] for _, item, sample in samples(run).values()}
    assert len(found) == 2
    for number in range(2):
        item = named(tmp_path / "private", [f"1.2.{number}.{index}" for index in range(8)])
        np.testing.assert_array_equal(found[item], in_ras(made(number)) - 1024)
    assert len({split for split, _, _ in samples(run).values()}) == 1


def test_slices_rescaled_differently_and_padding_have_one_background(tmp_path: Path) -> None:
    volume = made()
    volume[0, :, :] = -2000
    paths = write_series(tmp_path / "archive", volume, PixelPaddingValue=-2000)
    dataset = pydicom.dcmread(paths[4])
    dataset.RescaleSlope = 0.5
    dataset.save_as(paths[4])
    run = run_of(tmp_path)
    packed(run)
    values = volume.astype(np.float64)
    values[:, :, 4] *= 0.5
    values -= 1024
    values[0, :, :] = values[1:].min()
    np.testing.assert_allclose(only(run).array[0], in_ras(values), atol=1e-4)


@pytest.mark.parametrize("small", [0, survey.SMALL])
def test_copies_and_second_images_of_one_identifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Of files of ``small`` bytes and more, the survey does not know the content."""
    monkeypatch.setattr(survey, "SMALL", small)
    paths = write_series(tmp_path / "archive", made())
    shutil.copy(paths[2], tmp_path / "archive" / "copy")
    other = pydicom.dcmread(paths[3])
    other.InstanceNumber = 99
    other.save_as(tmp_path / "archive" / "other")
    run = run_of(tmp_path)
    summary = packed(run)
    assert reasons(summary) == {DUPLICATE: 1}
    assert instances(summary) == (10, 8, 1, 1)
    np.testing.assert_array_equal(only(run).array[0], in_ras(made()) - 1024)


def test_single_files_frames_and_foreign_files_beside_a_series_are_as_before(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_series(archive, made())
    write_series(archive, made()[:, :, :1], name="single")
    write_enhanced_dicom(archive / "e.dcm", made(2).transpose(2, 0, 1), [(0, 0, 4.0 * n) for n in range(8)])
    write_nifti(archive / "n.nii", shape=(10, 12, 8))
    (archive / "DICOMDIR").write_bytes(b"no image")
    run = run_of(tmp_path)
    summary = packed(run)
    assert summary.counts["packed"] == 3
    assert reasons(summary) == {SINGLE: 1}
    assert sum(summary.aside.values()) == 1
    assert instances(summary) == (9, 8, 1, 0)
    assert summary.counts["sources"] == 4


def test_a_damaged_slice_leaves_a_gap(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made(), name="good")
    bad = write_series(tmp_path / "archive", made(1), name="bad")[3]
    dataset = pydicom.dcmread(bad)
    dataset.PhotometricInterpretation = "XYZ"
    dataset.save_as(bad)
    summary = packed(run_of(tmp_path))
    assert reasons(summary) == {GAP: 1, "a DICOM photometric interpretation that is not read": 1}
    assert instances(summary) == (16, 8, 8, 0)


def test_everything_quarantined_says_why(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made(), skip=(3,))
    with pytest.raises(RunFileError, match=f"1 x {GAP}"):
        packed(run_of(tmp_path))


# Slices, and images


def test_slices_of_a_series_have_the_window_of_the_volume(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "archive", made())
    run = run_of(tmp_path, shape=[10, 12], slices={"axis": 2}, ct_window="off")
    assert instances(packed(run)) == (8, 8, 0, 0)
    found = sorted(samples(run).values(), key=lambda one: one[2].meta["slice"])
    item = named(tmp_path / "private", [pydicom.dcmread(path).SOPInstanceUID for path in paths])
    assert [item for _, item, _ in found] == [f"{item}/slice/{n}" for n in range(8)]
    for index, (_, _, sample) in enumerate(found):
        np.testing.assert_array_equal(sample.array[0], in_ras(made())[:, :, index] - 1024)
    values = made() - 1024
    assert {tuple(s.meta["window"]) for _, _, s in found} == {(values.min(), float(np.percentile(values, 99.9)))}


def test_images_of_a_series_have_one_window_and_are_else_as_before(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made())
    write_dicom(tmp_path / "archive" / "alone.dcm", (12, 10))
    run = run_of(tmp_path, shape=[12, 10], ct_window="off")
    before = run_of(tmp_path, shape=[12, 10], series="file", ct_window="off", dataset="before")
    assert instances(packed(run)) == (8, 8, 0, 0)
    assert instances(packed(before)) == (0, 0, 0, 0)
    ours = sorted(samples(run).values(), key=lambda one: one[2].array.tobytes())
    theirs = sorted(samples(before).values(), key=lambda one: one[2].array.tobytes())
    assert len(ours) == len(theirs) == 9
    for (_, item, our), (_, _, their) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.array, their.array)
        assert {k: v for k, v in our.meta.items() if k != "window"} == {
            k: v for k, v in their.meta.items() if k != "window"
        }
        assert (our.meta["window"] == their.meta["window"]) == (item == "")
    values = made() - 1024
    windows = {tuple(sample.meta["window"]) for _, item, sample in ours if item}
    assert windows == {(values.min(), float(np.percentile(values, 99.9)))}
    assert len({tuple(sample.meta["window"]) for _, _, sample in theirs}) > 2


def test_frames_that_are_no_volume_have_one_window(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    frames = made().transpose(2, 0, 1)
    write_enhanced_dicom(tmp_path / "archive" / "e.dcm", np.ascontiguousarray(frames), None)
    run = run_of(tmp_path, shape=[12, 10], ct_window="off")
    assert packed(run).counts["packed"] == 8
    values = frames - 1024
    windows = {tuple(sample.meta["window"]) for _, _, sample in samples(run).values()}
    assert windows == {(values.min(), float(np.percentile(values, 99.9)))}


def test_gaps_localizers_and_missing_positions_do_not_matter_to_images(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made(), skip=(3,), ImageType=["DERIVED", "SECONDARY", "LOCALIZER"])
    write_series(tmp_path / "archive", made(1), name="b", ImageOrientationPatient=[0.0] * 6)
    summary = packed(run_of(tmp_path, shape=[12, 10], ct_window="off"))
    assert (instances(summary), summary.quarantined) == ((15, 15, 0, 0), [])


def test_the_mapping_names_the_file_of_each_image_and_one_of_each_volume(tmp_path: Path) -> None:
    paths = {str(path) for path in write_series(tmp_path / "archive", made())}
    images = run_of(tmp_path, shape=[12, 10])
    packed(images)
    assert {row.uri for row in read_mapping(tmp_path / "private")} == paths
    volumes = run_of(tmp_path, dataset="volumes", private=str(tmp_path / "private-2"))
    packed(volumes)
    [row] = read_mapping(tmp_path / "private-2")
    assert row.uri in paths
    assert row.item == named(tmp_path / "private-2", [pydicom.dcmread(path).SOPInstanceUID for path in paths])


# Archives live


@pytest.mark.parametrize("small", [0, survey.SMALL])
def test_packing_again_changes_nothing_also_where_files_are_renamed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(survey, "SMALL", small)
    paths = write_series(tmp_path / "archive", made())
    run = run_of(tmp_path)
    first = packed(run)
    before = objects(ObjectStore(run.storage))
    assert packed(run).snapshot_digest == first.snapshot_digest
    paths[0].rename(tmp_path / "archive" / "elsewhere")
    shutil.copy(paths[1], tmp_path / "archive" / "copy")
    summary = packed(run)
    assert summary.snapshot_digest == first.snapshot_digest
    assert summary.changes["same"] == 1
    assert objects(ObjectStore(run.storage)) == before


@pytest.mark.parametrize("removed", ["keep", "drop"])
def test_a_slice_more_or_less_makes_another_volume_of_the_series(tmp_path: Path, removed: str) -> None:
    paths = write_series(tmp_path / "archive", made(shape=(12, 10, 9)), name="grows")
    write_series(tmp_path / "archive", made(1), name="stays")
    late = paths[-1].read_bytes()
    paths[-1].unlink()
    (tmp_path / "private").mkdir()
    # One of a volume's images names it, as the salt has it: here not the late one.
    (tmp_path / "private" / "salt").write_text("5" * 64)
    run = run_of(tmp_path, removed=removed)
    packed(run)
    first = {key: sample.array.tobytes() for key, (_, _, sample) in samples(run).items()}
    paths[-1].write_bytes(late)
    summary = packed(run)
    second = {key: sample.array.tobytes() for key, (_, _, sample) in samples(run).items()}
    assert summary.changes == {"new": 0, "same": 1, "changed": 1, "renamed": 0, "copied": 0, "removed": 0}
    assert instances(summary) == (17, 17, 0, 0)
    assert first.keys() == second.keys()
    assert sum(first[key] != second[key] for key in first) == 1
    paths[-1].unlink()
    assert packed(run).changes["changed"] == 1
    assert {key: sample.array.tobytes() for key, (_, _, sample) in samples(run).items()} == first
    paths[4].unlink()
    summary = packed(run)
    assert (reasons(summary), instances(summary)) == ({GAP: 1}, (15, 8, 7, 0))


def test_a_series_that_leaves_is_removed_or_kept(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "archive" / "a", made(), name="a"):
        assert path.exists()
    write_series(tmp_path / "archive" / "b", made(1), name="b")
    run = run_of(tmp_path)
    packed(run)
    shutil.rmtree(tmp_path / "archive" / "a")
    assert packed(run).changes["removed"] == 1
    assert len(samples(run)) == 2
    packed(run.model_copy(update={"data": run.data.model_copy(update={"removed": "drop"})}))
    assert len(samples(run)) == 1


def test_a_series_whose_files_now_name_another_patient_is_that_one_s_alone(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "archive", made())
    run = run_of(tmp_path)
    packed(run)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "corrected"
        dataset.save_as(path)
    summary = packed(run)
    assert (summary.counts["sources"], summary.counts["packed"], instances(summary)) == (1, 1, (8, 8, 0, 0))
    assert len(samples(run)) == 1


def test_repair_assembles_series_again(tmp_path: Path) -> None:
    for name in "abc":
        write_series(tmp_path / "archive", made(ord(name)), name=name)
    run = run_of(tmp_path, sources_per_task=10)
    packed(run)
    require_same_after_repair(run)


class Killed(BaseException):
    """What stands for kill -9."""


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_killed_and_run_again_it_is_as_if_uninterrupted(tmp_path: Path, tasks: int) -> None:
    digests = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        for series in "abc":
            write_series(folder / "archive", made(ord(series)), name=series)
        (folder / "private").mkdir()
        (folder / "private" / "salt").write_text("5" * 64)
        run = run_of(folder, sources_per_task=8)

        def dies(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
            for number, item in enumerate(items):
                if number == tasks:
                    raise Killed
                yield Done(item, task(item))

        if name == "killed":
            with pytest.raises(Killed):
                pack(run, dies, lambda progress: None)
        digests.append(packed(run).snapshot_digest)
    assert digests[0] == digests[1]


def test_a_task_has_whole_series_and_no_more_files_than_asked_unless_one_has(tmp_path: Path) -> None:
    for name in "abcd":
        write_series(tmp_path / "archive", made(ord(name)), name=name)
    sizes = []

    def noted(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        sizes.extend(sum(source.files for source in item.sources) for item in items if isinstance(item, PackTask))
        return map_here(task, items)

    pack(run_of(tmp_path, sources_per_task=17), noted, lambda progress: None)
    assert sorted(sizes) == [16, 16]


def test_a_worker_that_dies_of_a_series_quarantines_all_its_files(tmp_path: Path) -> None:
    for name in "abc":
        write_series(tmp_path / "archive", made(ord(name)), name=name)
    run = run_of(tmp_path)
    deadly = []

    def dies(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        for item in items:
            deadly.append(deadly[0] if deadly else item.sources[0].key)
            if any(source.key == deadly[0] for source in item.sources):
                yield Failed(item, ValueError("broken"))
            else:
                yield Done(item, task(item))

    summary = pack(run, dies, lambda progress: None)
    assert instances(summary) == (24, 16, 8, 0)
    assert summary.counts["sources_quarantined"] == 1


def test_damaged_shards_of_a_superseded_record_are_packed_from_the_archive(tmp_path: Path) -> None:
    """Sources that share a shard with a changed one are copied from it; if it is damaged, they are read again."""
    for name in "abc":
        write_series(tmp_path / "archive", made(ord(name)), name=name, folders=1)
    run = run_of(tmp_path, fractions={"train": 1.0})
    packed(run)
    store = ObjectStore(run.storage)
    for shards in load_snapshot(store, run.dataset, None).splits.values():
        for shard in shards:
            store.write(shard.uri, bytes(shard.size))
    write_series(tmp_path / "archive", made(7), name="a", folders=1)
    summary = packed(run)
    assert (summary.counts["sources"], summary.counts["packed"]) == (3, 3)
    arrays = {sample.array.tobytes() for _, _, sample in samples(run).values()}
    assert arrays == {
        np.ascontiguousarray(in_ras(made(seed)) - np.int16(1024)).tobytes() for seed in (7, ord("b"), ord("c"))
    }
    assert packed(run).snapshot_digest == summary.snapshot_digest


def test_series_on_s3_are_as_local_ones(tmp_path: Path, s3: Callable[[], str]) -> None:
    paths = write_series(tmp_path / "archive", made())
    bucket = ObjectStore(s3())
    for path in paths:
        bucket.write(f"x/{path.name}", path.read_bytes())
    local = run_of(tmp_path)
    first = packed(local)
    moved = run_of(tmp_path, source=bucket.root)
    assert packed(moved).snapshot_digest == first.snapshot_digest
    remote = run_of(tmp_path, source=bucket.root, dataset="remote", private=str(tmp_path / "private-2"))
    assert instances(packed(remote)) == (8, 8, 0, 0)
    np.testing.assert_array_equal(only(remote).array, only(local).array)


def test_each_small_object_takes_one_request_in_the_survey_and_one_in_its_task(
    tmp_path: Path, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = ObjectStore(s3())
    for path in write_series(tmp_path / "archive", made()):
        bucket.write(path.name, path.read_bytes())
    requests: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(S3Objects, name)

        def counted(*args: Any) -> Any:
            requests.append(name)
            return real(*args)

        return counted

    for name in ("read_tagged", "read_range", "download", "size", "status"):
        monkeypatch.setattr(S3Objects, name, counting(name))
    packed(run_of(tmp_path, source=bucket.root))
    assert Counter(requests) - Counter(status=1) == {"read_range": 8, "read_tagged": 8}


# Data sets, patients, privacy


def test_a_data_set_of_an_earlier_version_goes_on_with_each_file_by_itself(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", made())
    run = run_of(tmp_path, shape=[12, 10], series="file")
    first = packed(run)
    assert first.counts["sources"] == 8
    assert "series" not in load_snapshot(ObjectStore(run.storage), run.dataset, None).contract
    open_key = run_of(tmp_path, shape=[12, 10])
    assert packed(open_key).snapshot_digest == first.snapshot_digest
    assert preview_pack(open_key, lambda done, total: None).dicom is None
    with pytest.raises(RunChangedError, match=r"data\.series: leave it out"):
        packed(run_of(tmp_path, shape=[12, 10], series={}))


def test_one_series_identifier_for_all_patients_does_not_mix_them(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        write_series(tmp_path / "archive" / patient, made(), name="same", patient=patient)
    run = run_of(tmp_path)
    summary = packed(run)
    assert (summary.counts["packed"], summary.patients and summary.patients.patients) == (2, 2)


def test_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    for patient in range(12):
        for name in range(3):
            write_series(
                tmp_path / "archive",
                made(patient)[:, :, :3],
                name=f"{patient}-{name}",
                patient=f"P{patient}",
                folders=1,
            )
    summary = packed(run_of(tmp_path, shape=[10, 12, 3], fractions={"train": 0.5, "test": 0.5}))
    assert summary.counts["packed"] == 36
    assert len(summary.splits) == 2
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (12, 0)


def test_a_series_is_in_the_split_that_the_run_file_gives_and_moves_with_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_series(tmp_path / "archive" / split, made(len(split)), name=split)
    given = {split: str(tmp_path / "archive" / split) for split in ("train", "test")}
    run = run_of(tmp_path, source=None, splits=given, shape=[12, 10])
    assert packed(run).splits == {"train": 8, "test": 8}
    write_series(tmp_path / "archive" / "train", made(9), name="third")
    shutil.move(tmp_path / "archive" / "test" / "d0", tmp_path / "archive" / "train" / "d3")
    with pytest.raises(RunFileError, match="1 DICOM series have files that the run file assigns to different splits"):
        packed(run)
    for folder in ("d1", "d2"):
        shutil.move(tmp_path / "archive" / "test" / folder, tmp_path / "archive" / "train" / f"{folder}-from-test")
    write_series(tmp_path / "archive" / "test", made(10), name="fourth")
    summary = packed(run)
    assert summary.splits == {"train": 24, "test": 8}
    assert len(samples(run)) == 32


def test_a_table_that_tells_another_split_moves_the_series(tmp_path: Path) -> None:
    names = {name: write_series(tmp_path / "archive", made(ord(name)), name=name, folders=1) for name in "ab"}
    table = tmp_path / "table.csv"
    run = run_of(tmp_path, shape=[12, 10], group={"table": str(table), "split": "split", "label": "label"})
    for split in ("test", "train"):
        rows = [
            f"d0/{path.name},{name},{split if name == 'b' else 'train'},{index}"
            for name, paths in names.items()
            for index, path in enumerate(paths)
        ]
        table.write_text("\n".join(["source,group,split,label", *rows]))
        assert packed(run).splits == ({"train": 8, "test": 8} if split == "test" else {"train": 16})
    assert sorted(sample.labels for _, _, sample in samples(run).values()) == sorted(2 * [(n,) for n in range(8)])


def test_nothing_that_names_a_patient_or_a_file_reaches_storage(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "archive", made())
    header = pydicom.dcmread(paths[0])
    run = run_of(tmp_path)
    packed(run)
    written = b"".join(objects(ObjectStore(run.storage)).values())
    private = (PATIENT_ID, header.SeriesInstanceUID, header.StudyInstanceUID, header.SOPInstanceUID, paths[0].name)
    assert not [text for text in private if text.encode() in written]


def test_an_inventory_is_cut_by_series_where_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcde":
        write_series(tmp_path / "archive", made(), name=name, skip=(3,) if name == "c" else ())
    run = run_of(tmp_path)
    whole = preview_pack(run, lambda done, total: None)
    parts = list(series_sums.by_series(tmp_path / "private" / "survey.parquet", part_rows=10))
    assert len(parts) == 4
    assert sum(map(len, parts)) == 39
    places = [{row["series"] for row in part} for part in parts]
    assert sum(map(len, places)) == 5
    assert whole.dicom == series_sums.SeriesSums(39, 32, 4, {GAP: 7})


def test_the_mapping_follows_files_of_a_series_and_the_archive(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "archive", made(), folders=1)
    run = run_of(tmp_path, shape=[12, 10])
    packed(run)
    before = {row.key: Path(row.uri).read_bytes() for row in read_mapping(tmp_path / "private")}
    paths[3].rename(paths[3].with_name("elsewhere"))
    paths[4].rename(paths[3])  # another slice is now where it was
    assert packed(run).new_sources == 0
    assert {row.key: Path(row.uri).read_bytes() for row in read_mapping(tmp_path / "private")} == before
    (tmp_path / "archive").rename(tmp_path / "moved")
    assert packed(run_of(tmp_path, shape=[12, 10], source=str(tmp_path / "moved"))).new_sources == 0
    assert {row.key: Path(row.uri).read_bytes() for row in read_mapping(tmp_path / "private")} == before


def test_a_series_that_names_no_patient_follows_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "archive" / "patient_1", made(), patient="")
    run = run_of(tmp_path)
    packed(run)
    [former] = groups(run)
    (tmp_path / "archive" / "patient_1").rename(tmp_path / "archive" / "patient_2")
    assert packed(run).changes["changed"] == 1
    [now] = groups(run)
    assert now != former
    assert packed(run).changes["same"] == 1


@pytest.mark.parametrize("to", ["patient_2", "nobody"])
def test_repair_makes_a_series_again_of_which_a_file_lies_in_another_folder(tmp_path: Path, to: str) -> None:
    """No other patient has all of it, so it stays the former one's: its index says so, or its other files do."""
    for patient in ("patient_1", "patient_2"):
        write_series(tmp_path / "archive" / patient, made(ord(patient[-1])), name=patient, patient="", folders=1)
    run = run_of(tmp_path)
    packed(run)
    former = groups(run)
    file = min(path for path in (tmp_path / "archive" / "patient_1").rglob("*") if path.is_file())
    (tmp_path / "archive" / to).mkdir(exist_ok=True)
    file.rename(tmp_path / "archive" / to / "stray")
    assert packed(run).changes["same"] == 2
    assert groups(run) == former
    store = ObjectStore(run.storage)
    snapshot, before = load_snapshot(store, run.dataset, None), objects(store)
    shards = [shard for shards in snapshot.splits.values() for shard in shards]
    for shard in shards:
        store.write(shard.uri, b"damaged")
    uris = {shard.uri for shard in shards}
    assert repair_shards(run, snapshot, uris, map_here, ALONE) == []
    assert objects(store) == before
    for shard in shards:
        store.delete(shard.index_uri)
    assert repair_shards(run, snapshot, uris, map_here, ALONE) == []
    assert objects(store) == before


def test_a_series_is_refused_when_neither_its_index_nor_a_folder_says_whose_it_was(tmp_path: Path) -> None:
    write_series(tmp_path / "archive" / "patient_1", made(), patient="")
    run = run_of(tmp_path)
    packed(run)
    (tmp_path / "archive" / "patient_1").rename(tmp_path / "archive" / "nobody")
    assert packed(run).changes["same"] == 1
    store = ObjectStore(run.storage)
    snapshot, before = load_snapshot(store, run.dataset, None), objects(store)
    [shard] = [shard for shards in snapshot.splits.values() for shard in shards]
    index = store.read(shard.index_uri)
    store.delete(shard.index_uri)
    [left] = repair_shards(run, snapshot, {shard.uri}, map_here, ALONE)
    assert left.what == UNTOLD
    store.write(shard.index_uri, index)  # the way out that it names
    store.delete(shard.uri)
    assert repair_shards(run, snapshot, {shard.uri}, map_here, ALONE) == []
    assert objects(store) == before


def groups(run: RunFile) -> list[str]:
    store = ObjectStore(run.storage)
    shards = [s for split in load_snapshot(store, run.dataset, None).splits.values() for s in split]
    return [row["group"] for shard in shards for row in read_index(store, shard).to_pylist()]


def test_a_forgotten_folder_keeps_out_no_file_that_names_another_patient(tmp_path: Path) -> None:
    """And the inventory loses a forgotten series, also where its files were before."""
    for name, patient in (("a", ""), ("b", "another")):
        write_series(tmp_path / "archive" / "patient_1" / name, made(ord(name)), name=name, patient=patient, folders=1)
    write_series(tmp_path / "archive" / "patient_2", made(3), name="c")
    run = run_of(tmp_path, removed="drop")
    packed(run)
    former = tmp_path / "archive" / "patient_1" / "a"
    former.rename(former.with_name("secret"))
    packed(run)
    forget(open_place(run), Asked(patients=(PatientName("patient_1"),)), map_here)
    assert len(samples(run)) == 2
    private = b"".join(path.read_bytes() for path in (tmp_path / "private").iterdir() if path.suffix == ".sqlite")
    assert b"patient_1/a/" not in private
    assert b"patient_1/secret/" not in private
    inventory = read_inventory(
        tmp_path / "private" / INVENTORY, KeyMaker(load_salt(tmp_path / "private")).fingerprint()
    )
    assert not [row for row in inventory if "secret" in row["relative"]]
    assert packed(run).changes["removed"] == 0
    assert len(samples(run)) == 2


def test_mosaics_of_a_series_are_a_volume_each_as_the_plan_says(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for b_value in (0, 1000):
        stored = NIBABEL.parents[1] / "nicom" / "tests" / "data" / f"siemens_dwi_{b_value}.dcm.gz"
        (tmp_path / "archive" / f"{b_value}.dcm").write_bytes(gzip.decompress(stored.read_bytes()))
    run = run_of(tmp_path, shape=[16, 16, 12])
    assert preview_pack(run, lambda done, total: None).dicom == series_sums.SeriesSums(2, 2, 2, {})
    summary = packed(run)
    assert (summary.counts["packed"], instances(summary)) == (2, (2, 2, 0, 0))
    assert all(item.startswith("mosaic/") for _, item, _ in samples(run).values())


def test_a_series_in_the_folders_of_two_patients_is_nobody_s_until_it_lies_in_one(tmp_path: Path) -> None:
    """By its study, it could be in another split than the rest of its patient."""
    write_series(tmp_path / "archive" / "patient_1", made(), name="a", patient="", folders=1)
    write_series(tmp_path / "archive" / "patient_2", made(2), name="b", patient="", folders=1)
    file = min(path for path in (tmp_path / "archive" / "patient_1").rglob("*") if path.is_file())
    stray = file.rename(tmp_path / "archive" / "patient_2" / "stray")
    run = run_of(tmp_path, max_quarantined=1.0)
    first = packed(run)
    assert (first.counts["packed"], first.counts["sources_quarantined"]) == (1, 1)
    assert first.counts["instances_quarantined"] == 8
    [quarantined] = first.quarantined
    assert quarantined["reason"] == SCATTERED
    assert packed(run).new_sources == 0
    stray.rename(file)
    assert packed(run).counts["packed"] == 2
    assert len(set(groups(run))) == 2


def test_a_series_of_which_some_files_lie_elsewhere_is_the_patient_s_of_the_others(tmp_path: Path) -> None:
    write_series(tmp_path / "archive" / "patient_1", made(), name="a", patient="", folders=1)
    file = min(path for path in (tmp_path / "archive" / "patient_1").rglob("*") if path.is_file())
    (tmp_path / "archive" / "nobody").mkdir()
    write_series(tmp_path / "archive" / "patient_1", made(2), name="b", patient="", folders=1)
    file.rename(tmp_path / "archive" / "nobody" / "stray")
    run = run_of(tmp_path)
    packed(run)
    assert len(set(groups(run))) == 1


def test_a_scattered_series_that_changes_leaves_its_patient_s_split_for_the_quarantine(tmp_path: Path) -> None:
    for patient in ("patient_1", "patient_2"):
        write_series(tmp_path / "archive" / patient, made(ord(patient[-1])), name=patient, patient="", folders=1)
    run = run_of(tmp_path, max_quarantined=1.0)
    packed(run)
    file = min(path for path in (tmp_path / "archive" / "patient_1").rglob("*") if path.is_file())
    stray = file.rename(tmp_path / "archive" / "patient_2" / "stray")
    assert packed(run).changes["same"] == 2
    dataset = pydicom.dcmread(stray)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(stray)
    now = packed(run)
    assert [entry["reason"] for entry in now.quarantined] == [SCATTERED]
    assert (now.changes["changed"], now.counts["packed"]) == (1, 1)


@pytest.mark.parametrize("by", ["series", "path"])
def test_a_scattered_series_is_the_patient_s_whom_a_table_names(tmp_path: Path, by: str) -> None:
    write_series(tmp_path / "archive" / "patient_1", made(), name="a", patient="", folders=1)
    file = min(path for path in (tmp_path / "archive" / "patient_1").rglob("*") if path.is_file())
    (tmp_path / "archive" / "patient_2").mkdir()
    file.rename(tmp_path / "archive" / "patient_2" / "stray")
    files = [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]
    named = {str(pydicom.dcmread(path).SeriesInstanceUID) for path in files}
    rows = named if by == "series" else {str(path.relative_to(tmp_path / "archive")) for path in files}
    (tmp_path / "table.csv").write_text(f"{by},who\n" + "".join(f"{row},somebody\n" for row in sorted(rows)))
    run = run_of(tmp_path, table={"path": str(tmp_path / "table.csv"), "by": by, "group": "who"})
    assert packed(run).counts["packed"] == 1
