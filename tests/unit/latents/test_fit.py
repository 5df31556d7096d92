from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import FieldSpec, Params, field, init_params
from medfuncta_dist.latents.fit import FitSettings, fit_batch
from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.losses import psnr

SPEC = FieldSpec.linear(coords=2, channels=1, layers=4, hidden=24, latent=32, omega_first=8, omega_last=16)
COORDINATES = grid([9, 8])
SETTINGS = FitSettings(steps=8, rate=1.0, selection_ratio=0.6, seed=3)


@pytest.fixture(scope="module")
def params() -> Params:
    return init_params(SPEC, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def targets() -> Tensor:
    """Smooth scans: a bump at another place in each."""
    centres = torch.linspace(-0.6, 0.6, 5)[:, None, None]
    return torch.exp(-4 * (COORDINATES[None] - centres).square().sum(-1, keepdim=True))


@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_fitting_improves_every_scan(params: Params, targets: Tensor, ratio: float) -> None:
    before = psnr(field(SPEC, params, COORDINATES, torch.zeros(5, 32)), targets)
    few, many = (fit_batch(SPEC, params, COORDINATES, targets, FitSettings(n, 1.0, ratio)) for n in (2, 20))
    assert (few.psnr > before + 0.5).all()
    assert (many.psnr > few.psnr + 0.5).all()
    assert many.finite.all()


def test_psnr_is_that_of_decoding_the_latent(params: Params, targets: Tensor) -> None:
    fitted = fit_batch(SPEC, params, COORDINATES, targets, SETTINGS)
    decoded = field(SPEC, params, COORDINATES, fitted.latents)
    torch.testing.assert_close(fitted.psnr, psnr(decoded, targets), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("chunks", [Chunks(7, 2), Chunks(100, 1), Chunks(1000, 1000)])
def test_fitting_is_gradient_descent_whatever_the_chunks(params: Params, targets: Tensor, chunks: Chunks) -> None:
    double = {name: tensor.double() for name, tensor in params.items()}
    settings = FitSettings(4, 1.0, 0.5, seed=2, chunks=chunks)
    fitted = fit_batch(SPEC, double, COORDINATES.double(), targets.double(), settings)
    contexts = context_sets(len(COORDINATES), 0.5, 4, seed=2, outer_step=0)
    start = torch.zeros(5, 32, dtype=torch.float64)
    plain = adapt(SPEC, double, COORDINATES.double(), targets.double(), start, contexts, 1.0, create_graph=False)
    torch.testing.assert_close(fitted.latents, plain, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("padding", [0.0, 0.7, 1e30, math.nan, math.inf])
def test_padding_and_broken_scans_leave_the_other_rows_bits_alone(
    params: Params, targets: Tensor, padding: float
) -> None:
    clean = fit_batch(SPEC, params, COORDINATES, targets, SETTINGS)
    spoiled = targets.clone()
    spoiled[[1, 4]] = padding
    fitted = fit_batch(SPEC, params, COORDINATES, spoiled, SETTINGS)
    rest = [0, 2, 3]
    assert torch.equal(fitted.latents[rest], clean.latents[rest])
    assert torch.equal(fitted.psnr[rest], clean.psnr[rest])
    assert fitted.finite[rest].all()
    assert fitted.finite[[1, 4]].tolist() == [abs(padding) < 1e6] * 2


def test_one_bad_value_makes_a_scan_not_finite_even_outside_every_context(params: Params, targets: Tensor) -> None:
    spoiled = targets.clone()
    spoiled[2, 0] = math.nan
    fitted = fit_batch(SPEC, params, COORDINATES, spoiled, FitSettings(1, 1.0, 0.02, seed=1))
    assert fitted.finite.tolist() == [True, True, False, True, True]


def test_the_seed_decides_sparse_contexts(params: Params, targets: Tensor) -> None:
    first, again, other = (
        fit_batch(SPEC, params, COORDINATES, targets, FitSettings(3, 1.0, 0.3, seed=s)).latents for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_network_stays_frozen(params: Params, targets: Tensor) -> None:
    live = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    fitted = fit_batch(SPEC, live, COORDINATES, targets, SETTINGS)
    assert not fitted.latents.requires_grad
    assert all(p.grad is None and torch.equal(p, params[n]) for n, p in live.items())
