"""Scans that are grids of patches, from the table of a fitted run to a file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation import decode as decoding
from medfuncta_dist.evaluation.decode import decode, decode_to_file, save
from medfuncta_dist.evaluation.fitted_scan import FittedScan
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.patches import blended_scan
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS
from tests.native_scans import AFFINE
from tests.patched_runs import SHAPES, patched_run


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = patched_run(tmp_path_factory.mktemp("run"), request.param)
    fit(run, map_here)
    return run


@pytest.fixture
def table(run: RunFile) -> LatentTable:
    return LatentTable.open(run)


def key_of(table: LatentTable, shape: tuple[int, ...]) -> str:
    return next(key for key in table.keys if table.patches(key).shape == shape)


def test_a_scan_is_decoded_at_its_own_shape_in_its_own_units_and_place(run: RunFile, table: LatentTable) -> None:
    for shape in SHAPES:
        found = decode(run, key_of(table, shape)[:12])
        assert found.values.shape == (1, *shape)
        assert found.values.min() >= 0
        assert found.values.max() <= 1
        np.testing.assert_array_equal(found.affine, AFFINE)
        assert found.spacing == (2.0, 1.5, 3.0)
        assert found.psnr == table.find(found.key).psnr
        np.testing.assert_array_equal(found.scan_units, found.window.restore(found.values))


def test_where_one_patch_counts_it_is_what_the_network_makes_of_its_latent(run: RunFile, table: LatentTable) -> None:
    key = key_of(table, (9, 7, 10))
    grid = table.patches(key)
    alone = table.network.decode(torch.from_numpy(table.patch_latents(key)), (5, 5, 5)).clamp(0, 1).numpy()
    np.testing.assert_allclose(decode(run, key).values[:, :4, :2, :4], alone[0][:, :4, :2, :4], atol=1e-5)
    assert grid.corner(len(grid) - 1) == (4, 2, 5)
    np.testing.assert_allclose(decode(run, key).values[:, 5:, 5:, 9:], alone[-1][:, 1:, 3:, 4:], atol=1e-5)


@pytest.mark.parametrize("shape", [None, (18, 14, 7)])
def test_a_region_is_the_same_part_of_the_whole_and_lies_where_it_lay(
    run: RunFile, table: LatentTable, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    key = key_of(table, (9, 7, 10))
    region = [(2, 7), (0, 7), (3, 6)]
    whole, part = decode(run, key, shape), decode(run, key, shape, region=region)
    np.testing.assert_allclose(part.values, whole.values[:, 2:7, 0:7, 3:6], atol=1e-5)
    assert part.affine is not None
    assert whole.affine is not None
    np.testing.assert_allclose(part.affine @ [1, 1, 1, 1], whole.affine @ [3, 1, 4, 1])
    assert part.spacing == whole.spacing
    many = table.decode([key, key], shape, region)
    np.testing.assert_allclose(many[1], part.values, atol=1e-6)


@pytest.mark.parametrize("shape", [None, (18, 14, 7)])
def test_a_region_of_a_scan_without_an_affine_lies_where_it_is_in_the_scan(
    run: RunFile, table: LatentTable, shape: tuple[int, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(table, (9, 7, 10))
    monkeypatch.setattr(FittedScan, "affine", None)
    for name, region in (("whole.nii", None), ("part.nii", [(2, 7), (0, 7), (3, 6)])):
        decode_to_file(run, key, tmp_path / name, shape, region=region)
        save(decode(run, key, shape, region=region), tmp_path / f"at-once-{name}")
    for before in ("", "at-once-"):
        whole, part = (nib.load(tmp_path / f"{before}{name}.nii").affine for name in ("whole", "part"))
        np.testing.assert_allclose(whole[:, 3], [0, 0, 0, 1])
        np.testing.assert_allclose(part @ [1, 1, 1, 1], whole @ [3, 1, 4, 1], rtol=1e-6)


def test_only_the_patches_of_a_region_are_read(
    run: RunFile, table: LatentTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    original = LatentTable.patch_latents

    def watched(of: LatentTable, key: str, numbers: list[int]) -> np.ndarray:
        asked.append(numbers)
        return original(of, key, numbers)

    monkeypatch.setattr(LatentTable, "patch_latents", watched)
    key = key_of(table, (9, 7, 10))
    table.decode(key, region=[(0, 3), (0, 2), (0, 4)])
    table.decode(key, region=[(6, 9), (0, 2), (0, 4)])
    assert asked == [[0], [6]]


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.npy"])
@pytest.mark.parametrize("region", [None, [(2, 7), None, (3, 6)]])
def test_a_file_is_written_slab_by_slab(
    run: RunFile,
    table: LatentTable,
    tmp_path: Path,
    name: str,
    region: list[tuple[int, int] | None] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = key_of(table, (9, 7, 10))
    monkeypatch.setattr(blended_scan, "SLAB_VALUES", 200)
    monkeypatch.setattr(decoding, "save", None)
    said = decode_to_file(run, key, tmp_path / name, region=region)
    expected = decode(run, key, region=region)
    assert said["shape"] == list(expected.values.shape)
    assert said["psnr"] == expected.psnr
    assert not said["interpolated"]
    if name.endswith(".npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), expected.scan_units, atol=0.01)
        return
    image = nib.load(tmp_path / name)
    np.testing.assert_allclose(image.get_fdata(), expected.scan_units[0], atol=0.01)
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5)


def test_finer_than_the_scan_is_called_interpolated(run: RunFile, table: LatentTable, tmp_path: Path) -> None:
    key = key_of(table, (3, 4, 5))
    said = decode_to_file(run, key, tmp_path / "scan.nii.gz", (6, 4, 5))
    assert said["interpolated"]
    assert "the network interpolates" in said["said"][-1]


def test_a_part_of_each_patchs_numbers_can_be_decoded(run: RunFile, table: LatentTable) -> None:
    key = table.keys[0]
    if "latent.variances" in table.network.extras:
        assert not np.array_equal(decode(run, key, keep=2).values, decode(run, key).values)
    else:
        with pytest.raises(RunFileError, match="only be decoded whole"):
            decode(run, key, keep=2)


def test_what_can_not_be_decoded_is_refused(run: RunFile, table: LatentTable, tmp_path: Path) -> None:
    key = key_of(table, (9, 7, 10))
    with pytest.raises(RunFileError, match=r"shape \[9, 7, 10\] cannot be decoded at \[9, 7\]"):
        decode(run, key, (9, 7))
    with pytest.raises(RunFileError, match="axis 1 of 7 points has no region"):
        decode_to_file(run, key, tmp_path / "a.nii", region=[(0, 9), (3, 8), (0, 1)])
    with pytest.raises(RunFileError, match="no fitted scans"):
        decode(run, "0" * 64)
    with pytest.raises(RunFileError, match="do not make one array"):
        table.decode(table.keys[:2])
    assert table.decode(table.keys[:2], (6, 5, 4)).shape == (2, 1, 6, 5, 4)
    with pytest.raises(RunFileError, match="no file format is known"):
        decode_to_file(run, key, tmp_path / "a.tiff")
    assert list(tmp_path.iterdir()) == []


def test_parts_are_read_by_their_row_groups(run: RunFile, table: LatentTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part of patches is read whole."""
    read: list[str] = []
    original = ObjectStore.read
    monkeypatch.setattr(ObjectStore, "read", lambda s, path, **limit: read.append(path) or original(s, path, **limit))
    key = key_of(table, (9, 7, 10))
    read.clear()
    table.decode(key)
    scans = [part.patches.scans.path for part in table._source.parts if part.patches]
    assert all(path.split("/latents/")[1].split("/", 1)[1] in scans for path in read if "/parts/" in path)
