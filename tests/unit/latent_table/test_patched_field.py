"""A scan from the latents of its patches: without seams, at any resolution, and a region like the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.basis import init_params as basis_params
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.latent_table import patched_field
from medfuncta_dist.latent_table.patched_field import PatchedField
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.patches import blended_scan
from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.patches.random_corner import random_corner

SIZE, OVERLAP = (8, 8, 8), (2, 2, 2)


def smooth(shape: tuple[int, ...], seed: int, spots: int) -> np.ndarray:
    """A volume in [0, 1] of soft spots."""
    axes, rng = np.ix_(*map(np.arange, shape)), np.random.default_rng(seed)
    total = np.zeros(shape)
    for _ in range(spots):
        centre, width = rng.uniform(0, shape), rng.uniform(2.5, 6)
        squares = sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))
        total += rng.uniform(-1, 1) * np.exp(-squares / (2 * width**2))
    return ((total - total.min()) / np.ptp(total)).astype(np.float32)


@dataclass(frozen=True)
class Fitted:
    """A volume that the network has not seen, and its fitted patches."""

    volume: np.ndarray
    patches: np.ndarray
    """(patch, *spatial), decoded one by one."""
    field: PatchedField


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    spec = BasisSpec(3, 1, 3, 64, 96, 96, (8.0, 8.0), mapped=False)
    seen = smooth((48, 48, 48), 1, 200)
    corners = [random_corner(seen.shape, SIZE, seed=0, epoch=0, key="k", visit=visit) for visit in range(512)]
    parts = [seen[tuple(slice(start, start + 8) for start in corner)].reshape(-1, 1) for corner in corners]
    params = basis_params(spec, torch.Generator().manual_seed(0))
    learner = BasisLearner(spec, params, grid(SIZE), 48, 1e-4, 16_000)
    trained = learner.trained(learner.params(), iter([torch.from_numpy(np.stack(parts))]))
    network = SharedNetwork(trained.spec, trained.params, {}, {}, "", "", trained.extras)
    volume = smooth((36, 33, 40), 2, 60)
    patches = PatchGrid(volume.shape, SIZE, OVERLAP)
    targets = np.stack([volume[patches.inside(patches.corner(n))].reshape(-1, 1) for n in range(len(patches))])
    found = fit_batch(trained.spec, trained.params, grid(SIZE), torch.from_numpy(targets), FitSettings(method="exact"))
    alone = network.decode(found.latents, SIZE).clamp(0, 1).numpy()[:, 0]
    return Fitted(volume, alone, PatchedField(network, patches, lambda numbers: found.latents[numbers].numpy()))


def shared(patches: PatchGrid, axis: int) -> np.ndarray:
    """Which points of an axis lie in more than one patch, or beside such a one."""
    starts, found = patches.starts[axis], np.zeros(patches.shape[axis], bool)
    for _, start in enumerate(starts[1:]):
        before = starts[starts.index(start) - 1] + patches.size[axis]
        found[start - 1 : before + 1] = True
    return found


def seam_errors(fitted: Fitted, decoded: np.ndarray) -> tuple[float, float]:
    """Mean squared error at borders over that inside; and of the error's steps from point to point, likewise."""
    error, patches = decoded - fitted.volume, fitted.field.grid
    borders = [shared(patches, axis) for axis in range(3)]
    border = borders[0][:, None, None] | borders[1][:, None] | borders[2]
    steps = [np.moveaxis(np.diff(error, axis=axis), axis, 0) ** 2 for axis in range(3)]
    at = [
        np.concatenate([step[along[1:] == which].ravel() for step, along in zip(steps, borders, strict=True)]).mean()
        for which in (True, False)
    ]
    return float((error[border] ** 2).mean() / (error[~border] ** 2).mean()), float(at[0] / at[1])


def test_patches_are_blended_without_seams(fitted: Fitted) -> None:
    decoded = fitted.field.values(fitted.field.positions())[0]
    pasted = np.zeros_like(decoded)
    patches = fitted.field.grid
    for number, values in enumerate(fitted.patches):
        pasted[patches.inside(patches.corner(number))] = values
    error, step = seam_errors(fitted, decoded)
    assert error <= 1.05**2
    assert step <= 1.05**2
    psnr, plain = (-10 * np.log10(np.mean((found - fitted.volume) ** 2)) for found in (decoded, pasted))
    assert psnr > 40
    assert psnr > plain + 1
    assert seam_errors(fitted, pasted)[1] > 1.5 * step


def test_a_region_is_the_same_part_of_the_whole(fitted: Fitted) -> None:
    asked: list[int] = []

    def latents(numbers: list[int]) -> np.ndarray:
        asked.extend(numbers)
        return fitted.field.latents(numbers)

    watched = PatchedField(fitted.field.network, fitted.field.grid, latents)
    region = [(3, 12), None, slice(20, 40, 3)]
    part = watched.values(watched.positions(region=region))[0]
    whole = fitted.field.values(fitted.field.positions())[0]
    np.testing.assert_allclose(part, whole[3:12, :, 20:40:3], atol=1e-5)
    assert asked == list(fitted.field.grid.touching([(3, 11), (0, 32), (20, 38)])), "once, and no others"


def test_finer_grids_pass_through_coarser_ones(fitted: Fitted) -> None:
    native = fitted.field.values(fitted.field.positions())[0]
    fine = fitted.field.values(fitted.field.positions((71, 65, 79)))[0]
    np.testing.assert_allclose(fine[::2, ::2, ::2], native, atol=1e-5)
    # Between the scan's points, the field is as smooth as they are: no value that none of the eight neighbours is near.
    middle = (fine[1:-1:2, ::2, ::2] - (native[:-1] + native[1:]) / 2)[2:-2]
    assert np.abs(middle).max() < 0.1
    coarse = fitted.field.values(fitted.field.positions((18, 17, 14)))[0]
    np.testing.assert_allclose(coarse[::17, ::16, ::13], native[::35, ::32, ::39], atol=1e-5)


def test_a_scan_of_one_patch_is_what_its_network_makes_of_its_latent() -> None:
    spec = SirenSpec.linear(coords=2, channels=3, layers=3, hidden=16, latent=4, omega_first=5, omega_last=9)
    network = SharedNetwork(spec, init_params(spec, torch.Generator().manual_seed(1)), {}, {}, "", "")
    latent = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    field = PatchedField(network, PatchGrid((9, 6), (9, 6), (1, 1)), lambda numbers: latent[numbers])
    for shape in ((9, 6), (17, 11)):
        expected = network.decode(torch.from_numpy(latent), shape).clamp(0, 1)[0].numpy()
        np.testing.assert_allclose(field.values(field.positions(shape)), expected, atol=1e-6)


def test_groups_and_slabs_do_not_change_values(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = fitted.field.positions((20, 30, 10))
    whole = fitted.field.values(positions)
    monkeypatch.setattr(blended_scan, "DECODED_VALUES", 600)
    for across in range(3):
        slabs = list(fitted.field.slabs(positions, across))
        joined = np.concatenate([slab.values for slab in slabs], axis=1 + across)
        np.testing.assert_allclose(joined, whole, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 4, 4)])
def test_a_shape_that_does_not_fit_is_refused(fitted: Fitted, shape: tuple[int, ...]) -> None:
    with pytest.raises(RunFileError, match="cannot be decoded at"):
        fitted.field.positions(shape)


def test_too_many_values_are_refused_before_any_is_computed(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patched_field, "MAX_VALUES", 1000)
    with pytest.raises(RunFileError, match="more than 1000 values"):
        fitted.field.values(fitted.field.positions((10, 10, 11)))
    assert fitted.field.values(fitted.field.positions((10, 10, 10))).shape == (1, 10, 10, 10)
