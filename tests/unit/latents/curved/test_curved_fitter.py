from __future__ import annotations

import numpy as np
import pytest
import torch

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import field
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.latents.curved.curved_fitter import CurvedFitter
from medfuncta_dist.latents.curved.curved_tables import CurvedTables
from medfuncta_dist.latents.curved.table_design import symbols_of
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.losses import psnr_of_mse
from tests.unit.latents.curved.made_tables import LATENT, tables

SHAPE = (9, 9)
SPEC = SirenSpec.linear(layers=3, hidden=12, latent=LATENT, coords=2, channels=1, omega_first=5, omega_last=10)
PARAMS = init_params(SPEC, torch.Generator().manual_seed(0))


def fitter() -> Fitter:
    return new_fitter(SPEC, PARAMS, grid(SHAPE), FitSettings(steps=3, method="gauss-newton"))


def targets(count: int) -> torch.Tensor:
    return torch.rand(count, 81, 1, generator=torch.Generator().manual_seed(count))


def made(tables: CurvedTables) -> CurvedFitter:
    return CurvedFitter(fitter(), tables, torch.device("cpu"))


def test_latents_are_those_that_readers_get_and_the_psnr_is_theirs() -> None:
    plain, found, shared = fitter().fit(targets(5)), made(tables()).fit(targets(5)), tables()
    expected = symbols_of((plain.latents.numpy().astype(np.float64) - shared.mean) @ shared.inverse.T)
    assert found.stored.numbers.dtype == torch.int32
    assert (found.stored.numbers.numpy() == expected).all()
    assert (found.latents.numpy() == shared.latents(expected)).all()
    values = field(SPEC, PARAMS, grid(SHAPE), found.latents).clamp(0, 1)
    assert torch.allclose(found.psnr, psnr_of_mse((values - targets(5)).square().mean((1, 2))), atol=1e-4)
    assert found.finite.all()


def test_a_scans_bits_do_not_depend_on_its_neighbours() -> None:
    scans = targets(4)
    other = scans.clone()
    other[1:] = 0.5
    assert made(tables()).fit(scans).latents[0].equal(made(tables()).fit(other).latents[0])


def test_a_scan_that_is_not_finite_is_told_and_its_neighbours_are_not_affected() -> None:
    scans = targets(3)
    scans[1] = torch.nan
    found = made(tables()).fit(scans)
    assert found.finite.tolist() == [True, False, True]


@pytest.mark.parametrize("beyond", [True, False])
def test_a_scan_beyond_the_largest_symbol_is_infinite(beyond: bool) -> None:
    shared = tables()
    far = CurvedTables(
        mean=shared.mean + np.float32(1e9 if beyond else 0),
        numbers=shared.numbers,
        exponents=shared.exponents,
        counts=shared.counts,
        reaches=shared.reaches,
        frequencies=shared.frequencies,
    )
    found = made(far).fit(targets(2))
    assert bool(torch.isinf(found.latents).all(1).all()) is beyond
    assert found.finite.all()


def test_weights_are_those_of_the_fit_and_of_the_psnr() -> None:
    scans, inside = targets(3), torch.ones(3, 81)
    inside[:, 40:] = 0
    found = made(tables()).fit(scans, inside)
    values = field(SPEC, PARAMS, grid(SHAPE), found.latents).clamp(0, 1)
    errors = (values - scans).square().mean(2)
    assert found.psnr_everywhere is not None
    assert torch.allclose(found.psnr, psnr_of_mse(errors[:, :40].mean(1)), atol=1e-3)
    assert torch.allclose(found.psnr_everywhere, psnr_of_mse(errors.mean(1)), atol=1e-3)
