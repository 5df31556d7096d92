from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.decode import (
    Decoded,
    decode_key,
    decode_to_file,
    reconstruct,
    save,
)
from medfuncta_dist.evaluation.decoded_grid import resampled_affine, resampled_spacing
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.fitting import fit_task, latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.latent_ledger import Quarantined
from medfuncta_dist.scans.readers.signals.ecg_csv import EcgCsvReader
from medfuncta_dist.scans.scan import Window
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS
from tests.unit.latents.fitted import network, ready
from tests.writers import structured

AFFINE = np.array([[0, -2.0, 0.3, 10], [1.5, 0, 0, -20], [0, 0.2, 3, 5], [0, 0, 0, 1]])


EIGHT_BITS = Window(0, 255)


def decoded(shape: tuple[int, ...], window: Window = EIGHT_BITS, affine: np.ndarray | None = None) -> Decoded:
    values = np.stack([structured(shape[1:], seed) for seed in range(shape[0])])
    spacing = tuple(1.0 + i for i in range(len(shape) - 1))
    return Decoded("k" * 64, values, window, spacing, affine, 30.0, False, False)


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = ready(tmp_path_factory.mktemp("run"), request.param)
    fit(run, map_here)
    return run


@pytest.fixture(scope="module")
def rows(run: RunFile) -> list[dict]:
    store = ObjectStore(run.storage)
    return latent_ledger.load_table(store, locate_table(run, store).folder).to_pylist()


SIZES = st.lists(st.tuples(st.integers(2, 300), st.integers(2, 300)), min_size=1, max_size=3)


@given(SIZES)
def test_another_resolution_keeps_the_field_of_view(sizes):
    before, after = zip(*sizes, strict=True)
    affine = resampled_affine(AFFINE, before, after)
    padding = [0.0] * (3 - len(before)) + [1.0]
    for corner_before, corner_after in (([0] * len(before), [0] * len(after)), (before, after)):
        old = AFFINE @ [*[max(n - 1, 0) for n in corner_before], *padding]
        new = affine @ [*[max(n - 1, 0) for n in corner_after], *padding]
        assert new == pytest.approx(old)
    spacing = resampled_spacing([0.7] * len(before), before, after)
    assert [s * (m - 1) for s, m in zip(spacing, after, strict=True)] == pytest.approx([0.7 * (n - 1) for n in before])


def test_reconstructions_are_clamped_and_finer_grids_pass_through_coarser_ones():
    spec = SirenSpec.linear(coords=2, channels=1, layers=3, hidden=32, latent=4, omega_first=5, omega_last=9)
    shared = SharedNetwork(spec, init_params(spec, torch.Generator().manual_seed(1)), {}, {}, "", "")
    latents = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32) * 3
    coarse, fine = reconstruct(shared, latents, (9, 6)), reconstruct(shared, latents, (17, 11))
    assert coarse.shape == (2, 1, 9, 6)
    assert np.allclose(fine[:, :, ::2, ::2], coarse, atol=1e-5)
    assert fine.min() >= 0
    assert fine.max() <= 1


def test_a_key_decodes_to_what_the_network_makes_of_its_latent(run, rows):
    row = rows[5]
    found = decode_key(run, row["key"])
    latent = torch.tensor([row["latent"]])
    assert np.array_equal(found.values, network(run).decode(latent, (12, 12)).clamp(0, 1)[0].numpy())
    assert (found.key, found.psnr) == (row["key"], row["psnr"])
    assert np.array_equal(found.scan_units, found.values * np.float32(255))


def test_a_key_is_found_without_the_indexes_of_shards(run, rows, monkeypatch):
    read = []
    original = ObjectStore.read
    monkeypatch.setattr(ObjectStore, "read", lambda s, path, **limit: read.append(path) or original(s, path, **limit))
    decode_key(run, rows[7]["key"])
    assert len([path for path in read if "/parts/" in path]) == 1
    assert not [path for path in read if "/indexes/" in path]


def test_of_a_quarantined_scan_it_is_said(tmp_path, monkeypatch):
    run = ready(tmp_path, data={"max_quarantined": 0.5})
    read = fit_task.read_scan

    def all_but_one(reader, shard, row, key, shape):
        return Quarantined(key, "unusable") if row == 3 else read(reader, shard, row, key, shape)

    monkeypatch.setattr(fit_task, "read_scan", all_but_one)
    fit(run, map_here)
    store = ObjectStore(run.storage)
    commits = latent_ledger.read_commits(store, locate_table(run, store).folder)
    keys = [scan.key for commit in commits.values() for scan in commit.quarantined]
    with pytest.raises(RunFileError, match="was quarantined, and has no latent"):
        decode_key(run, keys[0])


def test_one_key_is_decoded_on_the_cpu_whatever_is_visible(run, rows, visible_gpu):
    granted = run.model_copy(update={"cluster": run.cluster.model_copy(update={"gpus_per_worker": 1.0})})
    assert decode_key(granted, rows[0]["key"]).values.shape == (1, 12, 12)


def test_the_beginning_of_a_key_is_enough_and_any_resolution_will_do(run, rows):
    found = decode_key(run, rows[0]["key"][:8], (23, 34))
    assert found.values.shape == (1, 23, 34)
    assert found.spacing == pytest.approx((rows[0]["spacing"][0] / 2, rows[0]["spacing"][1] / 3))


@pytest.mark.parametrize(
    ("key", "shape", "what"),
    [
        ("0" * 64, None, "no fitted scans"),
        ("12", None, "at least 8"),
        (None, (12,), "12"),
        (None, (12, 1), "12, 1"),
        (None, (99_999, 99_999), "more than 536870912 values"),
    ],
)
def test_what_can_not_be_decoded_is_refused(run, rows, key, shape, what):
    with pytest.raises(RunFileError, match=what):
        decode_key(run, key or rows[0]["key"], shape)


def test_nifti_has_the_scans_units_and_its_place(tmp_path):
    volume = decoded((1, 6, 7, 5), Window(-1000, 400), AFFINE)
    save(volume, tmp_path / "out.nii.gz")
    image = nib.load(tmp_path / "out.nii.gz")
    assert np.allclose(image.get_fdata(), volume.values[0] * 1400 - 1000, atol=1e-3)
    assert np.allclose(image.affine, AFFINE)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_nifti_without_an_affine_has_the_spacing(tmp_path):
    save(decoded((1, 6, 7, 5)), tmp_path / "out.nii")
    assert nib.load(tmp_path / "out.nii").header.get_zooms() == pytest.approx((1, 2, 3))


def test_nifti_of_a_picture_in_colour(tmp_path):
    picture = decoded((3, 6, 7))
    save(picture, tmp_path / "out.nii")
    array = nib.load(tmp_path / "out.nii").get_fdata()
    assert array.shape == (6, 7, 1, 1, 3)
    assert np.allclose(array[:, :, 0, 0, 2], picture.scan_units[2])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_an_eight_bit_picture_comes_back_as_it_was(tmp_path, channels):
    picture = decoded((channels, 6, 7))
    save(picture, tmp_path / "out.PNG")
    read = np.asarray(Image.open(tmp_path / "out.PNG"))
    assert np.array_equal(read, np.rint(np.moveaxis(picture.scan_units, 0, -1)).astype(np.uint8).squeeze())


def test_png_of_other_scans_shows_the_window_and_stands_upright(tmp_path):
    picture = replace(decoded((1, 6, 7), Window(-1000, 400)), upright=True)
    save(picture, tmp_path / "out.png")
    read = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(read, np.rint(np.rot90(picture.values[0]) * 255).astype(np.uint8))


def test_csv_can_be_read_back_as_a_scan(tmp_path):
    trace = decoded((1, 40), Window(0.0, 1.0))
    save(trace, tmp_path / "out.csv")
    (found,) = EcgCsvReader().scans(tmp_path / "out.csv")
    assert np.allclose(found.scan.array, trace.scan_units, atol=1e-7)


def test_npy_is_plain_numbers(tmp_path):
    volume = decoded((1, 4, 5, 6), Window(2, 4))
    save(volume, tmp_path / "new" / "out.npy")
    assert np.array_equal(np.load(tmp_path / "new" / "out.npy", allow_pickle=False), volume.scan_units)


@pytest.mark.parametrize(("shape", "name"), [((1, 5), "a.png"), ((1, 5, 5), "a.csv"), ((1, 5, 5), "a.jpg")])
def test_a_format_that_does_not_suit_is_refused(tmp_path, shape, name):
    with pytest.raises(RunFileError):
        save(decoded(shape), Path(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_can_not_be_written_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFileError, match="cannot be written") as caught:
        save(decoded((1, 5)), tmp_path / "file" / "a.csv")
    assert caught.value.where == "--out"


def test_a_region_of_a_scan_without_patches(run, rows, tmp_path):
    key, region = rows[0]["key"], [(2, 7), None]
    whole, part = decode_key(run, key, (20, 16)), decode_key(run, key, (20, 16), region=region)
    assert np.allclose(part.values, whole.values[:, 2:7], atol=1e-6)
    assert part.values.shape == (1, 5, 16)
    said = decode_to_file(run, key, tmp_path / "part.npy", (20, 16), region=region)
    assert said["shape"] == [1, 5, 16]
    assert said["interpolated"]
    assert np.array_equal(np.load(tmp_path / "part.npy"), part.scan_units)
