"""Fitting a SIREN where points have weights: every method, against the textbook formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfuncta_dist.fields.siren import field
from medfuncta_dist.latents.curvature import Sample, curved_gradient
from medfuncta_dist.latents.curvature_forms import Dual, Form, Primal
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.losses import psnr
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import CHECKED, Replayed, agrees_with_replays
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.recorders import reads_no_value, record_trace
from tests.unit.meta.weighted_problems import textbook_loss, weighted_problem, weights_of

P, WEIGHTS, TARGETS = weighted_problem(2, "code", 1.0)
WEIGHTS[3] = (torch.arange(len(P.coordinates)) % 3 == 0).double()
TARGETS = torch.where(WEIGHTS[..., None] > 0, P.targets, math.nan)
CHUNKS = Chunks(7, 2)
NEWTON = FitSettings(4, method="gauss-newton", curvature_ratio=0.7, closed_form=True, chunks=CHUNKS)
METHODS = {
    "sgd": FitSettings(4, 0.5, chunks=CHUNKS),
    "sgd on parts of the points": FitSettings(4, 0.5, selection_ratio=0.5, seed=2, chunks=CHUNKS),
    "closed form": FitSettings(4, 0.5, closed_form=True, chunks=CHUNKS),
    "rescaled": FitSettings(4, 0.5, rescale=0.5, chunks=CHUNKS),
    "momentum, int8": FitSettings(4, 0.5, method="momentum", storage_type="int8", chunks=CHUNKS),
    "target": FitSettings(4, 0.5, target_psnr=12.0, chunks=CHUNKS),
    "gauss-newton": NEWTON,
    "gauss-newton on parts": replace(NEWTON, closed_form=False, selection_ratio=0.7),
}
SCANS_WITH_WEIGHT = [0, 1, 3, 4]


def fitted(settings: FitSettings, targets: Tensor = TARGETS, weights: Tensor | None = WEIGHTS) -> FitResult:
    return fit_batch(P.spec, P.params, P.coordinates, targets, settings, weights)


def descended(settings: FitSettings) -> Tensor:
    """Plain gradient descent on the textbook loss."""
    latents = torch.zeros_like(P.latents)
    ratio, seed = settings.selection_ratio, settings.seed
    for context in context_sets(len(P.coordinates), ratio, settings.steps, seed=seed, outer_step=0):
        latents = latents.detach().requires_grad_()
        values = field(P.spec, P.params, P.coordinates[context], latents)
        loss = textbook_loss(values, P.targets[:, context], WEIGHTS[:, context])
        latents = latents - settings.rate * torch.autograd.grad(loss.sum(), latents)[0]
    return latents.detach()


@pytest.mark.parametrize("name", ["sgd", "sgd on parts of the points", "closed form"])
def test_fitting_is_gradient_descent_on_the_weighted_loss(name: str) -> None:
    torch.testing.assert_close(fitted(METHODS[name]).latents, descended(METHODS[name]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_values_that_do_not_count_change_no_bit_and_an_empty_mask_gives_0(name: str) -> None:
    clean, spoiled = fitted(METHODS[name], P.targets), fitted(METHODS[name])
    for one in ("latents", "psnr", "steps", "unsolved"):
        assert torch.equal(getattr(spoiled, one), getattr(clean, one))
    assert spoiled.finite.all()
    assert not spoiled.latents[2].any()
    assert (int(spoiled.steps[2]), int(spoiled.unsolved[2]), float(spoiled.psnr[2])) == (0, 0, 100.0)
    assert spoiled.latents[SCANS_WITH_WEIGHT].any(1).all()


@pytest.mark.parametrize("name", METHODS)
def test_equal_weights_are_none(name: str) -> None:
    plain, even = fitted(METHODS[name], P.targets, None), fitted(METHODS[name], P.targets, torch.full_like(WEIGHTS, 3))
    torch.testing.assert_close(even.latents, plain.latents, rtol=1e-8, atol=1e-10)
    assert torch.equal(even.steps, plain.steps)
    assert (plain.psnr_inside, plain.psnr_everywhere) == (None, None)


@pytest.mark.parametrize("name", METHODS)
def test_a_scans_bits_are_its_own_whatever_its_neighbours_weigh(name: str) -> None:
    other = WEIGHTS.flip(1).clone()
    other[[0, 3]] = WEIGHTS[[0, 3]]
    other[1] = math.nan
    first, second = fitted(METHODS[name], P.targets), fitted(METHODS[name], P.targets, other)
    assert torch.equal(first.latents[[0, 3]], second.latents[[0, 3]])
    assert second.finite.tolist() == [True, False, True, True, True]


def test_psnr_is_told_of_the_weighted_error_and_of_all_points() -> None:
    found = fitted(replace(METHODS["sgd"], storage_type="int8"), P.targets)
    values = field(P.spec, P.params, P.coordinates, found.latents)
    inside = -10 * torch.log10(textbook_loss(values.clamp(0, 1), P.targets, WEIGHTS))
    torch.testing.assert_close(found.psnr[SCANS_WITH_WEIGHT], inside[SCANS_WITH_WEIGHT])
    assert found.psnr_inside is found.psnr
    torch.testing.assert_close(found.psnr_everywhere, psnr(values, P.targets))
    unknown = fitted(METHODS["sgd"]).psnr_everywhere
    assert unknown is not None
    assert unknown.isnan().tolist() == TARGETS.isnan().any(2).any(1).tolist()


def test_a_mask_is_fitted_better_inside_than_without_it() -> None:
    settings = replace(NEWTON, steps=20)
    masked, plain = (
        textbook_loss(field(P.spec, P.params, P.coordinates, one.latents), P.targets, WEIGHTS)
        for one in (fitted(settings, P.targets), fitted(settings, P.targets, None))
    )
    assert (masked[[0, 1, 3]] < plain[[0, 1, 3]] * 0.999).all()


@pytest.mark.parametrize("form", [Primal, Dual])
@pytest.mark.parametrize("chunks", [CHUNKS, Chunks(100, 100)], ids=str)
def test_the_curvature_is_the_weighted_one_of_autograd(form: Form, chunks: Chunks) -> None:
    sample = torch.tensor([0, 2, 5, 7, 8, 13, 19])
    objective = P.objective(chunks).weighted(WEIGHTS)
    gradient, errors, found = curved_gradient(objective, Sample.of(sample, torch.device("cpu")), form)
    latents = P.latents.clone().requires_grad_()
    losses = textbook_loss(field(P.spec, P.params, P.coordinates, latents), P.targets, WEIGHTS)
    torch.testing.assert_close(errors, losses.detach(), rtol=1e-10, atol=0)
    (by_latents,) = torch.autograd.grad(losses.sum(), latents)
    torch.testing.assert_close(objective.network.pull_back(gradient), by_latents, rtol=1e-10, atol=1e-14)
    matrix = found.matrix if isinstance(found, Primal) else found.rows.mT @ found.rows
    for scan, latent in enumerate(P.latents):
        rows = torch.autograd.functional.jacobian(
            lambda one: field(P.spec, P.params, P.coordinates[sample], one[None])[0], latent
        )
        weights = WEIGHTS[scan, sample]
        squares = torch.einsum("n,ndp,ndq->pq", weights, rows, rows)
        expected = 2 / 2 * squares / weights.sum().clamp(min=1e-300)
        torch.testing.assert_close(matrix[scan], expected, rtol=1e-10, atol=1e-14)


def test_one_gauss_newton_step_solves_the_weighted_normal_equations() -> None:
    found = fitted(replace(NEWTON, steps=1, damping=20.0))
    origin = torch.zeros(P.spec.latent, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda one: field(P.spec, P.params, P.coordinates, one[None])[0], origin)
    error = field(P.spec, P.params, P.coordinates, origin[None])[0] - P.targets
    for scan in SCANS_WITH_WEIGHT:
        share = WEIGHTS[scan] / WEIGHTS[scan].sum()
        matrix = torch.einsum("n,ndp,ndq->pq", share, rows, rows)
        matrix += 20 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
        gradient = torch.einsum("n,nd,ndp->p", share, error[scan], rows)
        torch.testing.assert_close(found.latents[scan], -torch.linalg.solve(matrix, gradient), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "momentum, int8", "gauss-newton", "gauss-newton on parts"])
def test_a_recorded_block_has_weights_too(name: str) -> None:
    settings = replace(METHODS[name], steps=2, chunks=Chunks(20, 5), arithmetic=Arithmetic("torch"))
    p, *_ = weighted_problem(2, "code", 1.0, torch.float32)
    fitter = StepwiseFitter(p.spec, p.params, p.coordinates, settings)
    generator = torch.Generator().manual_seed(0)

    def block() -> tuple[Tensor, Tensor]:
        return torch.rand(5, len(p.coordinates), 2, generator=generator), weights

    weights = weights_of(len(p.coordinates), torch.arange(3), torch.float32)
    with torch.no_grad():
        fresh = [block() for _ in range(CHECKED.stop)]
        assert agrees_with_replays(fitter.work, Replayed(fitter.work, record_trace), fresh) == 0
        reads_no_value(fitter.work, block())
