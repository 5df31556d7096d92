"""DICOM segmentations that are kept beside the images of the series that they name (``data.masks: pair``)."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.archive.dicom_header import quiet, read_header
from medfuncta_dist.archive.inventory import INVENTORY, NEW, SCHEMAS, read_inventory
from medfuncta_dist.archive.source_bytes import HeadFile
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, IntegrityError, RunFileError
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.forget.patient_names import PatientName
from medfuncta_dist.packing.pack_preview import PackPreview
from medfuncta_dist.packing.pack_preview import preview_pack as preview
from medfuncta_dist.packing.sources import segmentation_pairs as said
from medfuncta_dist.packing.sources.pack_source import Mask
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.scans.readers.dicom.dicom_reader import NO_SCAN
from medfuncta_dist.scans.readers.dicom.segmentation_frames import STORAGE
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.packing.repairs import require_same_after_repair
from tests.unit.packing.test_dicom_series import in_ras, made, packed, reasons, samples
from tests.unit.packing.test_dicom_series import run_of as series_run
from tests.unit.shards.samples import objects
from tests.writers import write_enhanced_dicom, write_segmentation, write_series

SHAPE = (12, 10, 8)
"""Rows, columns, slices"""


def run_of(folder: Path, **data: object) -> RunFile:
    return series_run(folder, **({"masks": "pair"} | data))


def classes(seed: int = 0) -> np.ndarray:
    """(row, column, slice) from 0 to 3; nothing in the first slice."""
    found = np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8)
    found[:, :, 0] = 0
    return found


def write_pair(folder: Path, name: str = "series", seed: int = 0, **elements: object) -> tuple[list[Path], Path]:
    """A series, in several folders, and its segmentation, in another one."""
    images = write_series(folder, made(seed), name=name, **elements)  # type: ignore[arg-type]
    (folder / "derived").mkdir(exist_ok=True)
    path = write_segmentation(folder / "derived" / f"{name}.dcm", images, classes(seed))
    patient = str(elements.get("patient", pydicom.dcmread(images[0]).PatientID))
    return images, changed(path, PatientID=patient, SOPInstanceUID=f"1.2.{len(name)}.{sum(map(ord, name))}")


def changed(path: Path, **elements: object) -> Path:
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def masks(run: RunFile) -> list[np.ndarray | None]:
    return [sample.mask() for _, _, sample in samples(run).values()]


def test_the_segmentation_of_a_series_is_kept_beside_its_volume(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive", seed=1)
    write_series(tmp_path / "archive", made(2), name="another")
    summary = packed(run_of(tmp_path))
    assert (summary.counts["packed"], summary.counts["sources"], summary.quarantined) == (2, 2, [])
    assert summary.aside == {said.PAIRED: 1}
    by_mask = {sample.mask() is None: sample for _, _, sample in samples(run_of(tmp_path)).values()}
    np.testing.assert_array_equal(by_mask[False].mask(), in_ras(classes(1)))
    # The mask lies beside the volume that it was drawn on.
    np.testing.assert_array_equal(by_mask[False].array[0], in_ras(made(1)) - 1024)
    plan = preview_pack(run_of(tmp_path))
    assert (plan.aside, plan.to_read) == ({said.PAIRED: 1}, 0)


def preview_pack(run: RunFile) -> PackPreview:
    return preview(run, lambda done, total: None)


def test_nothing_of_a_segmentation_s_identifiers_is_stored(tmp_path: Path) -> None:
    _, path = write_pair(tmp_path / "archive", patient="PLANTED^PATIENT")
    run = run_of(tmp_path)
    packed(run)
    dataset = pydicom.dcmread(path)
    planted = [dataset.SOPInstanceUID, dataset.ReferencedSeriesSequence[0].SeriesInstanceUID, "PLANTED"]
    stored = b"".join(objects(ObjectStore(run.storage)).values())
    assert all(text.encode() not in stored for text in planted)


@pytest.mark.parametrize("masks_are", ["skip", "keep"])
def test_without_pairing_it_is_never_packed(tmp_path: Path, masks_are: str) -> None:
    _, path = write_pair(tmp_path / "archive")
    changed(path, Modality="CT")  # whatever it calls itself
    summary = packed(run_of(tmp_path, masks=masks_are))
    assert (summary.counts["packed"], reasons(summary), summary.aside) == (1, {NO_SCAN: 1}, {})
    assert masks(run_of(tmp_path)) == [None]


def test_one_frame_that_calls_itself_an_image_is_none(tmp_path: Path) -> None:
    images = write_series(tmp_path / "archive", made())
    flat = classes() * 0
    flat[2:5, 3:6, 4] = 1
    path = write_segmentation(tmp_path / "archive" / "seg.dcm", images, flat, fractional=255)
    changed(path, Modality="MR")
    summary = packed(run_of(tmp_path, shape=[12, 10], masks="skip"))
    assert (summary.counts["packed"], reasons(summary)) == (8, {NO_SCAN: 1})
    run = run_of(tmp_path, shape=[12, 10], dataset="paired", private=str(tmp_path / "private-2"))
    summary = packed(run)
    assert (summary.counts["packed"], summary.quarantined, summary.aside) == (8, [], {said.PAIRED: 1})
    found = [mask for mask in masks(run) if mask is not None]
    assert len(found) == 8
    assert sorted(int(mask.sum()) for mask in found) == [0] * 7 + [9]


def test_images_of_a_series_have_the_frames_at_their_places(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive", seed=3)
    run = run_of(tmp_path, shape=[12, 10])
    assert packed(run).quarantined == []
    found = {int(sample.array[0].sum()): sample.mask() for _, _, sample in samples(run).values()}
    assert len(found) == 8
    for index in range(8):
        mask = found[int((made(3)[:, :, index].astype(np.int64) - 1024).sum())]
        np.testing.assert_array_equal(mask, classes(3)[:, :, index])


def test_each_file_by_itself_has_the_frames_at_its_place(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive", seed=3)
    run = run_of(tmp_path, shape=[12, 10], series="file")
    summary = packed(run)
    assert (summary.counts["packed"], summary.counts["sources"], summary.quarantined) == (8, 8, [])
    assert sorted(int(mask.sum()) for mask in masks(run) if mask is not None) == sorted(
        int(classes(3)[:, :, index].sum()) for index in range(8)
    )


def test_of_a_series_of_two_stacks_only_the_one_that_it_names_has_it(tmp_path: Path) -> None:
    images, _ = write_pair(tmp_path / "archive", seed=1, AcquisitionNumber=1)
    first = pydicom.dcmread(images[0])
    uids = {"SeriesInstanceUID": first.SeriesInstanceUID, "StudyInstanceUID": first.StudyInstanceUID}
    write_series(tmp_path / "archive", made(2), name="later", AcquisitionNumber=2, **uids)
    run = run_of(tmp_path)
    summary = packed(run)
    assert (summary.counts["sources"], summary.counts["packed"], summary.quarantined) == (1, 2, [])
    for _, _, sample in samples(run).values():
        if np.array_equal(sample.array[0], in_ras(made(1)) - 1024):
            np.testing.assert_array_equal(sample.mask(), in_ras(classes(1)))
        else:
            assert sample.mask() is None


def test_one_that_names_no_image_is_placed_by_its_frames(tmp_path: Path) -> None:
    _, path = write_pair(tmp_path / "archive", seed=1)
    dataset = pydicom.dcmread(path)
    del dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.DerivationImageSequence
    dataset.save_as(path)
    packed(run_of(tmp_path))
    np.testing.assert_array_equal(masks(run_of(tmp_path))[0], in_ras(classes(1)))


def test_an_enhanced_file_has_that_which_names_it(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    volume = made(1)
    images = write_series(tmp_path / "slices", volume)
    positions = [pydicom.dcmread(image).ImagePositionPatient for image in images]
    frames = np.ascontiguousarray(np.moveaxis(volume, -1, 0))
    for name in ("named", "other"):
        path = tmp_path / "archive" / f"{name}.dcm"
        write_enhanced_dicom(path, frames, positions, spacing=(3, 3))
        changed(path, SOPInstanceUID=f"1.2.3.{len(name)}.{ord(name[0])}", SeriesInstanceUID="1.2.77", PatientID="P")
    seg = pydicom.dcmread(write_segmentation(tmp_path / "archive" / "seg.dcm", images, classes(1)))
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.77"
    named = [seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]]
    named[0].ReferencedSOPInstanceUID = "1.2.3.5.110"
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = named
    for groups in seg.PerFrameFunctionalGroupsSequence:
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.5.110"
    seg.PatientID = "P"
    seg.save_as(tmp_path / "archive" / "seg.dcm")
    run = run_of(tmp_path)
    summary = packed(run)
    assert (summary.counts["packed"], summary.quarantined) == (2, [])
    [mask] = [mask for mask in masks(run) if mask is not None]
    np.testing.assert_array_equal(mask, in_ras(classes(1)))


def without_references(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    del dataset.ReferencedSeriesSequence
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_references, said.UNNAMED),
        (lambda path: [image.unlink() for image in path.parent.parent.glob("d*/IMgone*")], said.ABSENT),
        (lambda path: changed(path, PatientID="someone else"), said.FOREIGN),
    ],
)
def test_one_of_no_series_here_is_counted_with_its_reason(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    write_series(tmp_path / "archive", made(2), name="stays")
    _, path = write_pair(tmp_path / "archive", "gone")
    change(path)
    summary = packed(run_of(tmp_path))
    assert (summary.quarantined, summary.aside) == ([], {reason: 1})
    assert set(masks(run_of(tmp_path))) == {None}


def test_several_of_one_series_are_none_and_a_copy_is_not_several(tmp_path: Path) -> None:
    _, path = write_pair(tmp_path / "archive")
    shutil.copy(path, path.with_name("copy.dcm"))
    summary = packed(run_of(tmp_path))
    assert summary.aside == {said.PAIRED: 1, said.COPY: 1}
    assert masks(run_of(tmp_path))[0] is not None
    changed(path.with_name("copy.dcm"), SOPInstanceUID="1.2.3.4.5")
    again = packed(run_of(tmp_path))
    assert (again.new_sources, again.aside, again.quarantined) == (1, {said.SEVERAL: 2}, [])
    assert masks(run_of(tmp_path)) == [None]


def test_one_that_does_not_fit_quarantines_its_volume(tmp_path: Path) -> None:
    _, path = write_pair(tmp_path / "archive")
    write_series(tmp_path / "archive", made(2), name="another")
    dataset = pydicom.dcmread(path)
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2, 2]
    dataset.save_as(path)
    summary = packed(run_of(tmp_path))
    assert (summary.counts["packed"], reasons(summary)) == (1, {"its segmentation has another grid": 1})


def test_changed_new_and_removed_ones_pack_their_series_again(tmp_path: Path) -> None:
    images, path = write_pair(tmp_path / "archive")
    write_pair(tmp_path / "archive", "second", 2)
    run = run_of(tmp_path)
    first = packed(run)
    again = packed(run)
    assert (again.new_sources, again.snapshot_digest) == (0, first.snapshot_digest)
    uid = pydicom.dcmread(path).SOPInstanceUID
    changed(
        write_segmentation(path, images, classes(9)), SOPInstanceUID=uid, PatientID=pydicom.dcmread(images[0]).PatientID
    )
    os.utime(path, (1, 1))
    third = packed(run)
    assert (third.new_sources, third.counts["packed"]) == (1, 2)
    assert any(np.array_equal(mask, in_ras(classes(9))) for mask in masks(run) if mask is not None)
    path.unlink()
    fourth = packed(run)
    assert (fourth.new_sources, fourth.counts["packed"], fourth.aside) == (1, 2, {said.PAIRED: 1})
    assert sum(mask is None for mask in masks(run)) == 1


def test_one_that_an_earlier_pack_quarantined_no_longer_counts_once_it_is_paired(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive")
    assert reasons(packed(run_of(tmp_path, masks="skip"))) == {NO_SCAN: 1}
    summary = packed(run_of(tmp_path))
    assert (summary.counts["sources"], summary.counts["packed"], summary.quarantined) == (1, 1, [])
    assert masks(run_of(tmp_path))[0] is not None
    back = packed(run_of(tmp_path, masks="skip"))
    assert (back.counts["packed"], reasons(back), masks(run_of(tmp_path))) == (1, {NO_SCAN: 1}, [None])


def test_nothing_but_segmentations_is_an_error_with_the_reason(tmp_path: Path) -> None:
    images, _ = write_pair(tmp_path / "archive")
    for image in images:
        image.unlink()
    with pytest.raises(RunFileError, match="of a series that is not here"):
        packed(run_of(tmp_path))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("apart", [False, True])
def test_inside_archive_files(tmp_path: Path, kind: str, apart: bool) -> None:
    """apart: the images lie loose."""
    images, path = write_pair(tmp_path / "loose", seed=1)
    (tmp_path / "archive").mkdir()
    inside = [path] if apart else [*images, path]
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "archive" / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number, file in enumerate(inside):
                archive.write(file, f"{number}.dcm")
    else:
        with tarfile.open(tmp_path / "archive" / f"study.{kind}", "w:gz" if kind == "tar.gz" else "w") as tar:
            for number, file in enumerate(inside):
                tar.add(file, f"{number}.dcm")
    for image in images if apart else ():
        image.rename(tmp_path / "archive" / image.name)
    run = run_of(tmp_path)
    summary = packed(run)
    assert (summary.counts["packed"], summary.quarantined, summary.aside) == (1, [], {said.PAIRED: 1})
    np.testing.assert_array_equal(masks(run)[0], in_ras(classes(1)))
    assert packed(run).snapshot_digest == summary.snapshot_digest


def test_repair_makes_the_same_shards_again(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive")
    run = run_of(tmp_path)
    packed(run)
    require_same_after_repair(run)


def to_version_1(path: Path, version: bytes = b"1") -> None:
    """An inventory as earlier versions wrote it."""
    table = pq.read_table(path)
    pq.write_table(
        table.drop_columns([NEW]).replace_schema_metadata(table.schema.metadata | {b"format_version": version}), path
    )


def test_an_inventory_of_an_earlier_version_is_read_and_its_segmentations_are_read_again(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive")
    run = run_of(tmp_path, masks="skip")
    packed(run)
    folder = Path(str(run.data.private))
    salt = KeyMaker(load_salt(folder)).fingerprint()
    whole = list(read_inventory(folder / INVENTORY, salt))
    assert [len(row[NEW]) for row in whole if row[NEW] is not None] == [1]
    to_version_1(folder / INVENTORY)
    assert pq.read_schema(folder / INVENTORY).equals(SCHEMAS[b"1"])
    assert list(read_inventory(folder / INVENTORY, salt)) == [row | {NEW: None} for row in whole]
    assert next(read_inventory(folder / INVENTORY, salt, ["size", NEW])) == {"size": whole[0]["size"], NEW: None}
    assert next(read_inventory(folder / INVENTORY, salt, ["size"])) == {"size": whole[0]["size"]}
    paired = run_of(tmp_path)
    assert packed(paired).aside == {said.PAIRED: 1}
    assert masks(paired)[0] is not None
    to_version_1(folder / INVENTORY, b"2")
    with pytest.raises(IntegrityError, match="other columns"):
        list(read_inventory(folder / INVENTORY, salt))
    to = pq.read_table(folder / INVENTORY)
    pq.write_table(to.replace_schema_metadata(to.schema.metadata | {b"format_version": b"3"}), folder / INVENTORY)
    with pytest.raises(FormatVersionError, match="is unknown"):
        list(read_inventory(folder / INVENTORY, salt))


def test_a_list_of_a_tar_of_an_earlier_version_is_used_unless_it_has_segmentations(tmp_path: Path) -> None:
    for name in ("with", "without"):
        images, path = write_pair(tmp_path / name, name)
        (tmp_path / "archive").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "archive" / f"{name}.tar.gz", "w:gz") as tar:
            for file in [*images, path] if name == "with" else images:
                tar.add(file, file.name)
    run = run_of(tmp_path, masks="skip")
    packed(run)
    folder = Path(str(run.data.private))
    lists = sorted((folder / "members").glob("*.parquet"))
    for path in lists:
        to_version_1(path)
    versions = lambda: sorted(pq.read_schema(path).metadata[b"format_version"] for path in lists)  # noqa: E731
    assert versions() == [b"1", b"1"]
    assert packed(run_of(tmp_path)).aside == {said.PAIRED: 1}
    assert versions() == [b"1", b"2"]


def test_a_forgotten_patient_leaves_no_trace_of_the_segmentation(tmp_path: Path) -> None:
    write_pair(tmp_path / "archive", "mine", patient="P1")
    write_pair(tmp_path / "archive", "yours", 2, patient="P2")
    run = run_of(tmp_path)
    assert packed(run).aside == {said.PAIRED: 2}
    forget(open_place(run), Asked(patients=(PatientName("P1"),)), map_here)
    folder = Path(str(run.data.private))
    rows = read_inventory(folder / INVENTORY, KeyMaker(load_salt(folder)).fingerprint())
    assert {row["patient"] for row in rows} == {KeyMaker(load_salt(folder)).group_key("patient", "p2\\")}
    again = packed(run)
    assert (again.counts["packed"], again.quarantined, again.aside) == (1, [], {said.ABSENT: 1, said.PAIRED: 1})


def test_of_a_large_one_only_the_beginning_is_read(tmp_path: Path) -> None:
    images, path = write_pair(tmp_path / "archive")
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence) * 60
    dataset.PixelData = bytes(2**21)
    dataset.save_as(path, enforce_file_format=True)
    data, asked = path.read_bytes(), list[tuple[int, int]]()

    def fetch(start: int, length: int) -> bytes:
        asked.append((start, length))
        return data[start : start + length]

    with quiet():
        row = read_header(HeadFile(fetch, len(data)), KeyMaker(bytes(32)))  # type: ignore[arg-type]
    assert row["refers_to"] == [pydicom.dcmread(images[0]).SeriesInstanceUID]
    assert len(asked) <= 3  # twice the beginning: what it names is near to it
    assert max(start + length for start, length in asked) < len(data) - 2**20


def test_the_owner_s_table_needs_no_row_for_it(tmp_path: Path) -> None:
    images, _ = write_pair(tmp_path / "archive")
    rows = "".join(f"{image.relative_to(tmp_path / 'archive')},3\n" for image in images)
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    table = {"path": str(tmp_path / "labels.csv"), "label": "label", "without_row": "refuse"}
    summary = packed(run_of(tmp_path, table=table))
    assert (summary.counts["packed"], summary.quarantined, summary.without_row) == (1, [], 0)
    [(_, _, sample)] = samples(run_of(tmp_path)).values()
    assert sample.labels == (3,)
    assert sample.mask() is not None


ROW = {"reader": "dicom", "rows": 4, "columns": 4, "size": 1, "content": None, "probe": "p", "refers_to": None}
PATIENTS = st.sampled_from([None, "a", "b"])
SERIES = st.sampled_from(["1", "2", "3"])
SEGMENTATIONS = st.lists(st.tuples(PATIENTS, st.frozensets(SERIES), st.sampled_from("xyz")), max_size=6)


@given(SEGMENTATIONS, st.lists(st.tuples(PATIENTS, SERIES), max_size=6), st.randoms())
def test_each_segmentation_is_counted_once_whatever_the_order(
    written: list[tuple[str | None, frozenset[str], str]], images: list[tuple[str | None, str]], random: Random
) -> None:
    found = [
        (
            Mask(f"{number}.dcm", 1, ""),
            ROW
            | {"sop_class": STORAGE, "patient": patient, "instance": instance + str(patient) + "".join(sorted(series))}
            | {"refers_to": sorted(series)},
        )
        for number, (patient, series, instance) in enumerate(written)
    ]
    rows = [ROW | {"sop_class": "", "patient": patient, "series": series} for patient, series in images]
    pairs = said.pairs_of(found)

    def verdicts() -> dict[str, str]:
        said_of = dict[str, str]()
        for row in rows:
            for uri, verdict in pairs.verdicts(row).items():
                said_of[uri] = said.stronger(said_of.get(uri, verdict), verdict)
        return said_of

    counts = pairs.counts(before := verdicts())
    assert sum(counts.values()) == len(written)
    random.shuffle(rows)
    assert verdicts() == before
    for row in rows:
        mask = pairs.of(row)
        assert mask is None or before[mask.uri] == said.PAIRED
    paired = {mask.uri for row in rows if (mask := pairs.of(row)) is not None}
    assert counts.get(said.PAIRED, 0) == len(paired)
    owner = {f"{number}.dcm": patient for number, (patient, _, _) in enumerate(written)}
    for row in rows:
        if (mask := pairs.of(row)) is not None and None not in (owner[mask.uri], row["patient"]):
            assert owner[mask.uri] == row["patient"]
