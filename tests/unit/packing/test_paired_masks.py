"""Segmentations that are kept beside the samples of their images (``data.masks: pair``), from pack to evaluation."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.sources.set_aside import PAIRED, SEGMENTATION, UNPAIRED
from medfuncta_dist.shards.sample import Sample, decode, encode
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.latents import fitted
from tests.unit.packing.repairs import require_same_after_repair
from tests.unit.packing.test_dicom_series import samples
from tests.unit.shards.samples import key_of, run_file, scan
from tests.writers import structured, write_nifti, write_png

SHAPE = (12, 14, 10)


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def write_case(
    folder: Path, case: int, *, affine: np.ndarray | None = None, shape: tuple[int, ...] = SHAPE
) -> np.ndarray:
    """An image and its labels in nnU-Net's layout; the labels (i, j, k)."""
    labels = np.rint(structured(shape, case) * 3).astype(np.uint8)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_nifti(folder / "imagesTr" / f"case_{case}_0000.nii.gz", SHAPE, case)
    write_nifti(folder / "labelsTr" / f"case_{case}.nii.gz", array=labels, affine=affine)
    return labels


def run_of(folder: Path, **data: object) -> RunFile:
    defaults: dict[str, object] = {"shape": list(SHAPE), "aspect": "stretch", "masks": "pair", "max_quarantined": 1.0}
    return run_file(folder, **(defaults | data))


def masks(run: RunFile) -> list[np.ndarray | None]:
    return [sample.mask() for _, _, sample in samples(run).values()]


def test_the_labels_of_a_volume_lie_on_its_sample_s_grid(tmp_path: Path) -> None:
    labels = write_case(tmp_path / "archive", 1)
    summary = packed(run_of(tmp_path))
    assert (summary.counts["packed"], summary.quarantined, summary.aside) == (1, [], {PAIRED: 1})
    [mask] = masks(run_of(tmp_path))
    np.testing.assert_array_equal(mask, labels)
    half = run_of(tmp_path, dataset="half", shape=[6, 7, 5], private=str(tmp_path / "private-2"))
    packed(half)
    [mask] = masks(half)
    steps = [
        np.floor(np.arange(m) * (n - 1) / (m - 1) + 0.5).astype(int) for n, m in zip(SHAPE, (6, 7, 5), strict=True)
    ]
    np.testing.assert_array_equal(mask, labels[np.ix_(*steps)])


def test_slices_have_the_slices_of_the_labels(tmp_path: Path) -> None:
    labels = write_case(tmp_path / "archive", 1)
    run = run_of(tmp_path, shape=list(SHAPE[:2]), slices={"axis": 2})
    packed(run)
    found = {sample.meta["slice"]: sample.mask() for _, _, sample in samples(run).values()}
    assert sorted(found) == list(range(10))
    for index, mask in found.items():
        np.testing.assert_array_equal(mask, labels[:, :, index])


def test_labels_and_image_in_another_order_of_axes_are_brought_together(tmp_path: Path) -> None:
    labels = write_case(tmp_path / "archive", 1)
    affine = np.array([[-2, 0, 0, -20 + 2 * 11], [0, 1.5, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "archive" / "labelsTr" / "case_1.nii.gz", array=labels[::-1].copy(), affine=affine)
    packed(run_of(tmp_path))
    np.testing.assert_array_equal(masks(run_of(tmp_path))[0], labels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": (12, 14, 9)}, "another shape"),
        ({"affine": np.diag([2.0, 1.5, 3, 1])}, "at another place"),
    ],
)
def test_labels_of_another_grid_quarantine_the_scan(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write_case(tmp_path / "archive", 1, **change)
    write_case(tmp_path / "archive", 2)
    summary = packed(run_of(tmp_path))
    assert summary.counts["packed"] == 1
    [entry] = summary.quarantined
    assert reason in entry["reason"]


def test_values_that_are_no_classes_quarantine_the_scan(tmp_path: Path) -> None:
    write_case(tmp_path / "archive", 1)
    write_nifti(tmp_path / "archive" / "labelsTr" / "case_1.nii.gz", array=structured(SHAPE))
    write_case(tmp_path / "archive", 2)
    [entry] = packed(run_of(tmp_path)).quarantined
    assert entry["reason"] == "its segmentation holds other values than whole numbers from 0 to 255"


def test_images_without_labels_are_packed_and_labels_without_images_counted(tmp_path: Path) -> None:
    for case in (1, 2):
        write_case(tmp_path / "archive", case)
    (tmp_path / "archive" / "labelsTr" / "case_1.nii.gz").unlink()
    (tmp_path / "archive" / "imagesTr" / "case_2_0000.nii.gz").rename(
        tmp_path / "archive" / "imagesTr" / "x_0000.nii.gz"
    )
    summary = packed(run_of(tmp_path))
    assert (summary.counts["packed"], summary.quarantined, summary.aside) == (2, [], {UNPAIRED: 1})
    assert masks(run_of(tmp_path)) == [None, None]


def test_several_labels_of_an_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for name in ("a", "a_seg", "a_mask"):
        write_nifti(tmp_path / "archive" / f"{name}.nii.gz", SHAPE)
    with pytest.raises(RunFileError, match="1 images have several segmentations"):
        packed(run_of(tmp_path))


def test_changed_labels_and_a_changed_key_pack_the_scan_again(tmp_path: Path) -> None:
    for case in (1, 2):
        write_case(tmp_path / "archive", case)
    first = packed(run_of(tmp_path))
    again = packed(run_of(tmp_path))
    assert (again.snapshot_digest, again.new_sources) == (first.snapshot_digest, 0)
    path = tmp_path / "archive" / "labelsTr" / "case_2.nii.gz"
    write_nifti(path, array=np.full(SHAPE, 3, np.uint8))
    os.utime(path, (1, 1))
    third = packed(run_of(tmp_path))
    assert (third.new_sources, third.counts["packed"]) == (1, 2)
    assert sum(mask is not None and bool((mask == 3).all()) for mask in masks(run_of(tmp_path))) == 1
    without = packed(run_of(tmp_path, masks="skip"))
    assert (without.new_sources, without.counts["packed"], without.aside) == (2, 2, {SEGMENTATION: 2})
    assert masks(run_of(tmp_path)) == [None, None]


def test_repair_makes_the_same_shards_again(tmp_path: Path) -> None:
    for case in (1, 2):
        write_case(tmp_path / "archive", case)
    run = run_of(tmp_path)
    packed(run)
    require_same_after_repair(run)


def test_a_sample_without_a_mask_has_the_bytes_that_it_always_had() -> None:
    assert b"mask" not in encode(key_of(1), scan())[1]


@pytest.mark.parametrize(
    "runs",
    [
        {"classes": [0], "lengths": [29]},
        {"classes": [0], "lengths": [2**31 - 1]},
        {"classes": [256], "lengths": [30]},
        {"classes": [1, 0], "lengths": [31, -1]},
        {"classes": [1, 0], "lengths": [30]},
        {"classes": [1.5], "lengths": [30]},
        {"classes": [1]},
        [],
    ],
)
def test_a_damaged_mask_is_an_error_of_its_sample(runs: object) -> None:
    key, (npy, meta) = key_of(1), encode(key_of(1), scan())
    made = decode(key, npy, json.dumps(json.loads(meta) | {"mask": runs}).encode())
    with pytest.raises(IntegrityError, match="no valid mask"):
        made.mask()


def test_evaluation_has_the_psnr_inside(tmp_path: Path) -> None:
    inside = np.zeros((12, 12), np.uint8)
    inside[3:7, 4:9] = 1
    for split, count in (("train", 6), ("test", 4)):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for n in range(count):
            write_png(tmp_path / split / "images" / f"{n}.png", (12, 12), seed=n + count)
            if n:
                Image.fromarray(inside).save(tmp_path / split / "masks" / f"{n}.png")
    sources = {split: str(tmp_path / split) for split in ("train", "test")}
    run = fitted.run_file(tmp_path, data={"source": None, "splits": sources, "masks": "pair"})
    assert packed(run).aside == {PAIRED: 8}
    fitted.publish(run, fitted.network(run))
    fit(run, map_here)
    summary = evaluate(run, map_here)
    store = ObjectStore(run.storage)
    table = pq.read_table(io.BytesIO(store.read(f"runs/{run.name}/report/metrics.parquet")))
    assert table.schema.metadata[b"format_version"] == b"2"
    rows = {row["key"]: row for row in table.to_pylist()}
    originals: Mapping[str, tuple[str, str, Sample]] = samples(run)
    for key, (_, _, sample) in originals.items():
        assert (rows[key]["psnr_mask"] is None) == (sample.mask() is None)
    figures = [row["psnr_mask"] for row in rows.values() if row["split"] == "test" and row["psnr_mask"] is not None]
    assert summary["splits"]["test"]["psnr_mask"]["scans"] == len(figures) == 3
    assert summary["splits"]["test"]["psnr_mask"]["mean"] == pytest.approx(np.mean(figures))
    assert all(abs(row["psnr_mask"] - row["psnr"]) > 1e-3 for row in rows.values() if row["psnr_mask"] is not None)
    assert "inside masks" in store.read(f"runs/{run.name}/report/report.html").decode()
