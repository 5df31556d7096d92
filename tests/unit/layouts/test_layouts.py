"""Every layout of docs/how-to/layouts.md: its own run file packs small made data, and the page says what comes out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.packing.sources.set_aside import ABOUT, PAIRED, SEGMENTATION, SIGNALS
from medfuncta_dist.scans.canonical import canonical
from medfuncta_dist.scans.readers.dicom.dicom_reader import NO_SCAN, WITHOUT_IMAGE
from medfuncta_dist.scans.readers.dicom.stacks import NO_GEOMETRY
from medfuncta_dist.scans.readers.nifti import NiftiReader
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.data_contract import SplitsBy
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.docs.pages import DOCS, blocks
from tests.unit.layouts import archives
from tests.unit.scans.archive import NILEARN

PAGE = DOCS / "how-to" / "layouts.md"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, to which the paths of the page are relative; with a salt that draws the same splits each
    time."""
    monkeypatch.chdir(tmp_path)
    Path("private").mkdir(mode=0o700)
    Path("private/salt").write_text("7" * 64)
    return tmp_path


class Packed(NamedTuple):
    path: str
    """Of the scan's file, below the working folder; of a series, of one of its files."""
    item: str
    split: str
    sample: Sample


def run_of(title: str, *overrides: str) -> RunFile:
    (text,) = (block.text for block in blocks(PAGE) if block.title == title)
    return parse(text, ["data.private=private", *overrides])


def packed(run: RunFile) -> tuple[PackSummary, list[Packed]]:
    """What pack says, as its plan does before it; and all samples, by path and item."""
    planned = preview_pack(run, lambda done, total: None)
    summary = pack(run, map_here, lambda progress: None)
    assert planned.aside == summary.aside
    store, paths, found = ObjectStore(run.storage), {}, []
    for row in read_mapping(Path("private")):
        paths[row.key] = str(Path(row.uri).relative_to(Path.cwd()))
    for split, shards in load_snapshot(store, run.dataset, None).splits.items():
        for shard in shards:
            tar = store.read(shard.uri)
            for row in read_index(store, shard).to_pylist():
                npy, json = (tar[row[f"{m}_offset"] :][: row[f"{m}_length"]] for m in ("npy", "json"))
                sample = decode(row["key"], npy, json)
                found.append(Packed(paths[row["key"]], row["item"], split, sample))
    return summary, sorted(found, key=lambda one: (one.path, one.item))


def splits_of(found: list[Packed], part: int) -> dict[str, set[str]]:
    """The splits of each folder, or file, at a place of the paths."""
    splits: dict[str, set[str]] = {}
    for one in found:
        splits.setdefault(Path(one.path).parts[part], set()).add(one.split)
    return splits


SESSIONS = [f"{patient:05}-{time:03}" for patient in range(12) for time in range(3)]


def test_brats() -> None:
    archives.write_brats(Path("BraTS2023"), SESSIONS)
    summary, found = packed(run_of("brats.yaml"))
    assert [Path(one.path).name for one in found] == [f"BraTS-GLI-{session}-t1n.nii.gz" for session in SESSIONS]
    assert (summary.quarantined, summary.aside) == ([], {})
    assert summary.splits_by is SplitsBy.PATIENT
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (12, 0)
    splits = {patient: set[str]() for patient in range(12)}
    for one in found:
        splits[int(one.path.split("-")[2])].add(one.split)
    assert all(len(each) == 1 for each in splits.values())
    assert len({*map(frozenset, splits.values())}) > 1, "all patients are in one split: the draw says nothing"
    sample = found[0].sample
    assert (sample.array.shape, sample.meta["spacing"]) == ((1, 32, 32, 32), [8, 8, 8])
    # 12 and 14 voxels of 8 mm, mirrored to RAS+, in the middle of 32; background around
    stored = np.rint(archives.structured(archives.SHAPE, 0) * 1000)[::-1, ::-1]
    inside = np.flatnonzero((sample.array[0] > sample.window.low).any((1, 2)))
    assert 10 <= inside.min() < inside.max() <= 21
    assert np.corrcoef(sample.array[0, 10:22, 9:23, 16].ravel(), stored[:, :, 4:6].mean(2).ravel())[0, 1] > 0.98


def test_volumes_are_those_of_the_public_code_but_smoother() -> None:
    """As it pads, pools and clips, but in RAS+; the page has the figure."""
    path = NILEARN / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    [found] = NiftiReader().scans(path)
    assert isinstance(found.scan, Scan)
    array = found.scan.array[0].astype(float)
    low, high = np.quantile(array, (0.001, 0.999))
    theirs = np.zeros((256, 256, 256))
    theirs[tuple(slice((256 - n) // 2, (256 - n) // 2 + n) for n in array.shape)] = (array.clip(low, high) - low) / (
        high - low
    )
    theirs = theirs.reshape(32, 8, 32, 8, 32, 8).mean((1, 3, 5))
    ours = canonical(found.scan, run_of("brats.yaml").data)
    assert ours.window is not None
    psnr = -10 * np.log10(((ours.window.normalise(ours.array)[0] - theirs) ** 2).mean())
    assert f"{psnr:.1f} dB" in PAGE.read_text(encoding="utf-8")


def test_brats_as_a_whole_folder() -> None:
    archives.write_brats(Path("BraTS2023"), SESSIONS[:6])
    summary, found = packed(run_of("brats.yaml", "data.source=BraTS2023"))
    assert (len(found), summary.aside) == (24, {SEGMENTATION: 6})
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (2, 0)


@pytest.mark.parametrize(
    ("source", "aside"),
    [("LIDC-IDRI/**/*.dcm", {}), ("LIDC-IDRI", {ABOUT: 1, SIGNALS: 1, "no reader takes .xml": 4})],
)
def test_lidc_idri(source: str, aside: dict[str, int]) -> None:
    volumes = archives.write_lidc(Path("LIDC-IDRI"), [1, 2, 3, 4])
    summary, found = packed(run_of("lidc.yaml", f"data.source={source}"))
    assert (summary.quarantined, summary.aside) == ([], aside)
    assert (summary.counts["sources"], summary.counts["packed"]) == (16, 4)
    assert (summary.counts["instances"], summary.counts["instances_left_out"]) == (36, 12)
    assert [Path(one.path).parts[1] for one in found] == [f"LIDC-IDRI-{n:04}" for n in (1, 2, 3, 4)]
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.by) == (4, {"patient": 4})
    sample = found[0].sample
    assert (sample.array.shape, sample.meta["modality"]) == ((1, 32, 32, 32), "CT")
    assert (sample.meta["spacing"], sample.meta["window"]) == ([8, 8, 8], [-1000, 1000])
    # Of 300 mm by 300 mm by 200 mm at its middle: DICOM's rows run to the back, RAS+ to the front.
    affine, world = np.array(sample.meta["affine"]), np.array([0, 0, 100, 1])
    assert np.linalg.solve(affine, world)[:3] == pytest.approx([15.5] * 3)
    assert sample.array[0, 15:17, 15:17, 15:17].mean() == pytest.approx(volumes[0][7:9, 7:9, 2:4].mean() - 1024, abs=60)
    assert (sample.array[0, :, :, :3] == -1000).all()


def test_lidc_idri_without_the_key_lists_what_makes_no_volume() -> None:
    archives.write_lidc(Path("LIDC-IDRI"), [1, 2])
    overrides = ["data.series={other: quarantine}", "data.max_quarantined=1"]
    summary, found = packed(run_of("lidc.yaml", *overrides))
    assert (len(found), len(summary.quarantined)) == (2, 6)
    assert {entry["reason"] for entry in summary.quarantined} == {NO_GEOMETRY, WITHOUT_IMAGE, NO_SCAN}


@pytest.mark.parametrize(("source", "aside"), [("mitdb/*.hea", {}), ("mitdb", {ABOUT: 2, "no reader takes .txt": 1})])
def test_mit_bih_records(source: str, aside: dict[str, int]) -> None:
    pytest.importorskip("wfdb")
    archives.write_mit_bih_records(Path("mitdb"), [100, 200, 201, 202, 203], 8000)
    summary, found = packed(run_of("mit-bih-records.yaml", f"data.source={source}"))
    assert (summary.quarantined, summary.aside) == ([], aside)
    assert [(Path(one.path).name, one.item) for one in found] == [
        (f"{number}.hea", f"window/{window}") for number in (100, 200, 201, 202, 203) for window in (0, 1)
    ]
    assert summary.splits_by is SplitsBy.RULE
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (4, 0)
    splits = splits_of(found, 1)
    assert splits["201.hea"] == splits["202.hea"]
    assert {len(each) for each in splits.values()} == {1}
    assert found[0].sample.array.shape == (1, 3600)
    assert found[0].sample.labels == ()


def test_mit_bih_beats() -> None:
    archives.write_mit_bih_beats(Path("heartbeat"), 9, 5)
    summary, found = packed(run_of("mit-bih-beats.yaml"))
    assert (summary.quarantined, summary.aside) == ([], {})
    assert summary.splits == {"train": 9, "test": 5}
    assert summary.splits_by is SplitsBy.GIVEN
    assert Counter((one.split, *one.sample.labels) for one in found) == {
        ("train", 0): 5,
        ("train", 1): 4,
        ("test", 0): 3,
        ("test", 1): 2,
    }
    assert found[0].sample.array.shape == (1, 187)


@pytest.mark.parametrize(
    ("title", "source", "shape"),
    [
        ("medmnist.yaml", "pneumoniamnist_64", (1, 64, 64)),
        ("medmnist-3d.yaml", "nodulemnist3d", (1, 28, 28, 28)),
        ("medmnist-colour.yaml", "pathmnist", (3, 28, 28)),
    ],
)
def test_medmnist(title: str, source: str, shape: tuple[int, ...]) -> None:
    archives.write_medmnist_files(Path())
    summary, found = packed(run_of(title))
    assert {one.path for one in found} == {f"{source}.npz"}
    assert summary.splits == {"train": 6, "val": 3, "test": 2}
    assert (summary.quarantined, summary.aside) == ([], {})
    with np.load(f"{source}.npz") as file:
        stored, labels = file["val_images"][1], file["val_labels"][1]
    (one,) = (one for one in found if one.item == "val/1")
    assert one.sample.labels == tuple(labels)
    assert one.sample.window == Window(0, 255)
    np.testing.assert_array_equal(one.sample.array, np.moveaxis(stored, -1, 0) if shape[0] == 3 else stored[None])
    assert one.sample.array.shape == shape


SUBJECTS = [f"{number:02}" for number in range(1, 9)]


def test_bids() -> None:
    archives.write_bids(Path("bids"), SUBJECTS)
    summary, found = packed(run_of("bids.yaml"))
    assert len(found) == 16
    assert all(one.path.endswith("_T1w.nii.gz") and "derivatives" not in one.path for one in found)
    assert (summary.quarantined, summary.aside, summary.unused_rows, summary.without_row) == ([], {}, 1, 0)
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (8, 0)
    assert {len(each) for each in splits_of(found, 1).values()} == {1}
    labels = {Path(one.path).parts[1]: one.sample.labels for one in found}
    assert labels == {f"sub-{s}": () if n == 0 else ((n - 1) % 2,) for n, s in enumerate(SUBJECTS)}


def test_bids_as_a_whole_folder() -> None:
    archives.write_bids(Path("bids"), SUBJECTS[:3])
    summary, found = packed(run_of("bids.yaml", "data.source=bids"))
    assert len(found) == 12
    assert not any("dseg" in one.path for one in found)
    assert summary.aside == {ABOUT: 2, SEGMENTATION: 6, "no reader takes .json": 7, "no reader takes .tsv": 1}
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (3, 0)


def test_nnunet() -> None:
    archives.write_nnunet(Path("Dataset001_Made"), [0, 1, 2], [7])
    summary, found = packed(run_of("nnunet.yaml"))
    assert summary.splits == {"train": 3, "test": 1}
    assert {(Path(one.path).parts[1], one.split) for one in found} == {("imagesTr", "train"), ("imagesTs", "test")}
    assert all(one.path.endswith("_0000.nii.gz") for one in found)
    assert (summary.quarantined, summary.aside) == ([], {})
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (4, 0)


def test_nnunet_as_a_whole_folder() -> None:
    archives.write_nnunet(Path("Dataset001_Made"), list(range(6)), [7])
    summary, found = packed(run_of("nnunet.yaml", "data.splits=null", "data.source=Dataset001_Made"))
    assert len(found) == 14
    assert summary.aside == {SEGMENTATION: 6, "no reader takes .json": 1}
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits) == (7, 0)


def test_brats_with_tumours() -> None:
    archives.write_brats(Path("BraTS2023"), SESSIONS[:4])
    source = "data.source=[BraTS2023/**/*-t1n.nii.gz, BraTS2023/**/*-seg.nii.gz]"
    summary, found = packed(run_of("brats.yaml", source, "data.masks=pair"))
    assert (len(found), summary.quarantined, summary.aside) == (4, [], {PAIRED: 4})
    for one in found:
        mask = one.sample.mask()
        assert mask is not None
        assert mask.any()
        values = one.sample.values()[0]
        assert values[mask > 0].mean() > 0.4 > values[mask == 0].mean()


def test_nnunet_with_labels() -> None:
    archives.write_nnunet(Path("Dataset001_Made"), [0, 1, 2], [7])
    train = "data.splits.train=[Dataset001_Made/imagesTr/*_0000.nii.gz, Dataset001_Made/labelsTr/*.nii.gz]"
    summary, found = packed(run_of("nnunet.yaml", train, "data.masks=pair"))
    assert (summary.splits, summary.quarantined, summary.aside) == ({"train": 3, "test": 1}, [], {PAIRED: 3})
    assert [one.sample.mask() is None for one in found] == [False, False, False, True]
