from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, field, init_params
from medfuncta_dist.latents.curvature import Sample, curved_gradient, spread_points
from medfuncta_dist.latents.curvature_forms import Curvature, Dual, Primal
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.fit_steps import Method
from medfuncta_dist.latents.latent_types import StorageType, store
from medfuncta_dist.meta.context import context_indices, context_sets
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.losses import mse, psnr
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold
from medfuncta_dist.meta.sweeps.inner_gradient import shift_gradient

SPEC = SirenSpec.linear(coords=2, channels=1, layers=4, hidden=24, latent=32, omega_first=8, omega_last=16)
COORDINATES = grid([9, 8])
CPU = torch.device("cpu")
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


def gauss_newton(**changes: Any) -> FitSettings:
    return replace(FitSettings(steps=6, method="gauss-newton", curvature_ratio=0.6, closed_form=True), **changes)


def test_gauss_newton_is_better_in_fewer_steps(params: Params, targets: Tensor) -> None:
    plain = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(steps=20, rate=1.0))
    few = fit_batch(SPEC, params, COORDINATES, targets, gauss_newton(steps=12, damping=5.0, curvature_ratio=1.0))
    assert (few.psnr > plain.psnr).all()
    assert few.steps.tolist() == [12] * 5


def test_one_gauss_newton_step_solves_the_damped_normal_equations(params: Params, targets: Tensor) -> None:
    double = {name: tensor.double() for name, tensor in params.items()}
    settings = gauss_newton(steps=1, curvature_ratio=1.0, closed_form=False, damping=20.0)
    fitted = fit_batch(SPEC, double, COORDINATES.double(), targets.double(), settings)
    origin = torch.zeros(32, dtype=torch.float64)

    def values(latent: Tensor) -> Tensor:
        return field(SPEC, double, COORDINATES.double(), latent[None])[0, :, 0]

    rows = torch.autograd.functional.jacobian(values, origin)
    matrix = 2 / len(rows) * rows.T @ rows
    matrix += 20 * matrix.diagonal().mean() * torch.eye(32, dtype=torch.float64)
    gradient = 2 / len(rows) * (values(origin) - targets[..., 0].double()) @ rows
    torch.testing.assert_close(fitted.latents, -torch.linalg.solve(matrix, gradient.T).T, rtol=1e-8, atol=1e-10)


def test_the_curvature_is_that_of_autograd_for_several_channels() -> None:
    spec = SirenSpec(2, 2, 4, 6, 5, (3.0, 5.0, 4.0), residual=True, modulate_first=True)
    params = {n: t.double() for n, t in init_params(spec, torch.Generator().manual_seed(1)).items()}
    points, latents = grid([5, 4], dtype=torch.float64), 0.3 * torch.ones(3, 5, dtype=torch.float64)
    latents[1] *= -1
    objective = Objective(fold(spec, params), points, torch.zeros(3, 20, 2, dtype=torch.float64), latents, Chunks(7, 2))
    _, _, found = curved_gradient(objective, Sample.of(torch.arange(20), CPU))
    assert isinstance(found, Primal)
    for latent, matrix in zip(latents, found.matrix, strict=True):
        rows = torch.autograd.functional.jacobian(lambda p: field(spec, params, points, p[None]).flatten(), latent)
        torch.testing.assert_close(matrix, 2 / 40 * rows.T @ rows)


def matrix_of(curvature: Curvature) -> Tensor:
    """H, whatever the form."""
    if isinstance(curvature, Dual):
        torch.testing.assert_close(curvature.gram, curvature.rows @ curvature.rows.mT)
        return curvature.rows.mT @ curvature.rows
    assert isinstance(curvature, Primal)
    return curvature.matrix


@pytest.mark.parametrize("chunks", [Chunks(7, 2), Chunks(100, 100)])
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_one_sweep_gives_gradient_and_curvature(chunks: Chunks, share: float) -> None:
    spec = SirenSpec(2, 2, 4, 6, 5, (3.0, 5.0, 4.0), residual=True, modulate_first=True)
    network = fold(spec, {n: t.double() for n, t in init_params(spec, torch.Generator().manual_seed(1)).items()})
    points, latents = grid([5, 4], dtype=torch.float64), 0.3 * torch.ones(3, 5, dtype=torch.float64)
    latents[1] *= -1
    wanted = torch.rand(3, 20, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sample = spread_points(20, share, 1)
    objective = Objective(network, points, wanted, latents, chunks)
    by_shifts, errors, found = curved_gradient(objective, Sample.of(sample, CPU))
    torch.testing.assert_close((by_shifts, errors), shift_gradient(objective))
    _, _, alone = curved_gradient(objective.on(sample), Sample.of(torch.arange(len(sample)), CPU))
    assert type(found) is type(alone) is (Dual if share == 0.1 else Primal)
    torch.testing.assert_close(matrix_of(found), matrix_of(alone))


def test_sparse_gauss_newton_sees_the_same_even_points_at_every_step(params: Params, targets: Tensor) -> None:
    sparse = gauss_newton(steps=4, selection_ratio=0.618, curvature_ratio=1.0, closed_form=False, damping=5.0)
    even = spread_points(len(COORDINATES), 0.618, 0)
    apart = fit_batch(SPEC, params, COORDINATES[even], targets[:, even], replace(sparse, selection_ratio=1.0))
    found = fit_batch(SPEC, params, COORDINATES, targets, sparse)
    torch.testing.assert_close(found.latents, apart.latents)


def test_a_closed_form_first_step_sees_every_point(params: Params, targets: Tensor) -> None:
    one = fit_batch(SPEC, params, COORDINATES, targets, gauss_newton(steps=1, selection_ratio=0.5))
    whole = fit_batch(SPEC, params, COORDINATES, targets, gauss_newton(steps=1))
    assert torch.equal(one.latents, whole.latents)


@pytest.mark.parametrize("ratio", [0.1, 0.309, 1.0])
def test_points_for_the_curvature_are_distinct_and_evenly_spread(ratio: float) -> None:
    for step in range(5):
        chosen = spread_points(784, ratio, step)
        gaps = chosen.diff()
        assert len(chosen) == round(784 * ratio)
        assert 0 <= int(chosen[0]) < int(chosen[-1]) < 784
        assert int(gaps.max()) - int(gaps.min()) <= 1


def test_a_step_that_made_a_scan_worse_is_taken_back(params: Params, targets: Tensor) -> None:
    before = psnr(field(SPEC, params, COORDINATES, torch.zeros(5, 32)), targets)
    for steps in (1, 2, 5):
        bold = gauss_newton(steps=steps, damping=1e-7, curvature_ratio=0.1)
        assert (fit_batch(SPEC, params, COORDINATES, targets, bold).psnr >= before).all()


def test_rounding_takes_no_step_back(params: Params) -> None:
    """The last step gains less than int8 loses: it is kept all the same, as without int8."""
    drawn = 0.05 * torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    representable = field(SPEC, params, COORDINATES, drawn)
    whole = gauss_newton(steps=8, curvature_ratio=1.0)
    exact = fit_batch(SPEC, params, COORDINATES, representable, whole)
    rounded = fit_batch(SPEC, params, COORDINATES, representable, replace(whole, storage_type="int8"))
    assert torch.equal(rounded.stored.numbers, store(exact.latents, "int8").numbers)
    assert (exact.psnr > rounded.psnr + 20).all()


def test_clamping_hides_no_worse_step(params: Params, targets: Tensor) -> None:
    """Far outside [0, 1] clamped errors are small: they must not be compared with the unclamped ones before."""
    steep = params | {"layer.4.weight": 8 * params["layer.4.weight"]}
    found = fit_batch(SPEC, steep, COORDINATES, targets.round(), gauss_newton(steps=1, damping=1e-4)).latents
    first, last = (mse(field(SPEC, steep, COORDINATES, p), targets.round()) for p in (0 * found, found))
    assert (last <= first).all()
    assert (last < first).any()


def test_a_last_step_on_some_points_is_taken_back_as_well(params: Params, targets: Tensor) -> None:
    bold = gauss_newton(steps=1, damping=0.3, curvature_ratio=0.3, selection_ratio=0.618, closed_form=False)
    even = spread_points(len(COORDINATES), 0.618, 0)
    found = fit_batch(SPEC, params, COORDINATES, targets, bold).latents
    first, last = (mse(field(SPEC, params, COORDINATES[even], p), targets[:, even]) for p in (0 * found, found))
    assert (last <= first).all()
    assert (last < first).any()


@pytest.mark.parametrize("method", ["sgd", "momentum", "gauss-newton"])
@pytest.mark.parametrize("padding", [0.0, math.nan, math.inf])
def test_padding_leaves_bits_alone_whatever_the_method(
    params: Params, targets: Tensor, method: Method, padding: float
) -> None:
    settings = replace(gauss_newton(), method=method, rate=1.0, target_psnr=25.0, storage_type="int8")
    clean = fit_batch(SPEC, params, COORDINATES, targets, settings)
    spoiled = targets.clone()
    spoiled[[1, 4]] = padding
    fitted = fit_batch(SPEC, params, COORDINATES, spoiled, settings)
    for name in ("latents", "psnr", "steps"):
        assert torch.equal(getattr(fitted, name)[[0, 2, 3]], getattr(clean, name)[[0, 2, 3]])
    assert fitted.finite.tolist() == [True, padding == 0, True, True, padding == 0]


def test_momentum_is_a_heavy_ball(params: Params, targets: Tensor) -> None:
    plain = [fit_batch(SPEC, params, COORDINATES, targets, FitSettings(n, 1.0)).latents for n in (1, 2)]
    ball = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(2, 1.0, method="momentum", momentum=0.3)).latents
    torch.testing.assert_close(ball, plain[1] + 0.3 * plain[0])


@pytest.mark.parametrize("method", ["sgd", "momentum", "gauss-newton"])
def test_the_closed_form_first_step_is_the_gradient_step(params: Params, targets: Tensor, method: Method) -> None:
    settings = gauss_newton(method=method, rate=1.0, steps=1, curvature_ratio=1.0, damping=1.0)
    closed = fit_batch(SPEC, params, COORDINATES, targets, settings).latents
    swept = fit_batch(SPEC, params, COORDINATES, targets, replace(settings, closed_form=False)).latents
    torch.testing.assert_close(closed, swept, rtol=0, atol=1e-6)


def test_early_stopping_stops_at_the_target_and_never_below(params: Params, targets: Tensor) -> None:
    free = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(30, 1.0))
    target = float(free.psnr.median())
    stopped = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(30, 1.0, target_psnr=target))
    early = stopped.steps < 30
    assert 0 < int(early.sum()) < 5
    assert (stopped.psnr[early] >= target).all()
    for scan in early.nonzero().flatten():
        steps = int(stopped.steps[scan])
        same = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(steps, 1.0))
        torch.testing.assert_close(stopped.latents[scan], same.latents[scan])


def test_last_steps_see_every_point(params: Params, targets: Tensor) -> None:
    assert torch.equal(
        fit_batch(SPEC, params, COORDINATES, targets, FitSettings(4, 1.0, 0.3, full_steps=4)).latents,
        fit_batch(SPEC, params, COORDINATES, targets, FitSettings(4, 1.0)).latents,
    )
    sparse = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(1, 1.0, 0.3, seed=1)).latents
    both = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(2, 1.0, 0.3, seed=1, full_steps=1)).latents
    everything = [torch.arange(len(COORDINATES))]
    then = adapt(SPEC, params, COORDINATES, targets, sparse, everything, 1.0, create_graph=False)
    torch.testing.assert_close(both, then)


def test_rescaling_changes_the_length_of_a_step_alone(params: Params, targets: Tensor) -> None:
    plain = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(1, 1.0)).latents
    scaled = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(1, 1.0, rescale=0.3)).latents
    context = context_indices(len(COORDINATES), 0.3, seed=0, outer_step=1, inner_step=0)
    sub = fit_batch(SPEC, params, COORDINATES[context], targets[:, context], FitSettings(1, 1.0)).latents
    torch.testing.assert_close(scaled, plain * (sub.norm(dim=1) / plain.norm(dim=1))[:, None])


def test_learned_rates_take_the_place_of_one_rate(params: Params, targets: Tensor) -> None:
    rates = torch.stack([torch.full((32,), 0.5), torch.linspace(0.1, 1.0, 32)])
    first = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(1, 0.5)).latents
    both = fit_batch(SPEC, params, COORDINATES, targets, FitSettings(2, rates)).latents
    one_more = adapt(
        SPEC, params, COORDINATES, targets, first, [torch.arange(len(COORDINATES))], 1.0, create_graph=False
    )
    torch.testing.assert_close(both, first + rates[1] * (one_more - first))


@pytest.mark.parametrize("storage_type", ["float32", "float16", "int8"])
def test_psnr_is_that_of_what_is_stored(params: Params, targets: Tensor, storage_type: StorageType) -> None:
    fitted = fit_batch(SPEC, params, COORDINATES, targets, gauss_newton(storage_type=storage_type))
    stored = fitted.stored
    assert stored.numbers.dtype == getattr(torch, storage_type)
    restored = stored.numbers.float() * (1 if stored.scales is None else stored.scales[:, None])
    torch.testing.assert_close(fitted.latents, restored)
    torch.testing.assert_close(fitted.psnr, psnr(field(SPEC, params, COORDINATES, restored), targets))


DEFICIENT = SirenSpec(2, 1, 3, 4, 32, (5.0, 8.0))
"""Four shifts for 32 numbers: its curvature has rank 4 at most."""


def test_a_step_without_a_factor_is_counted_and_the_next_has_more_damping(targets: Tensor) -> None:
    network = init_params(DEFICIENT, torch.Generator().manual_seed(0))
    bare = gauss_newton(damping=1e-12, curvature_ratio=1.0)
    once = fit_batch(DEFICIENT, network, COORDINATES, targets, replace(bare, steps=1))
    assert once.unsolved.tolist() == [1] * 5
    assert torch.equal(once.latents, torch.zeros(5, 32))
    later = fit_batch(DEFICIENT, network, COORDINATES, targets, bare)
    assert later.unsolved.tolist() == [1] * 5
    assert (later.psnr > once.psnr + 0.5).all()
    assert later.finite.all()


def test_a_broken_scan_is_not_finite_though_its_steps_have_no_factor(params: Params, targets: Tensor) -> None:
    spoiled = targets.clone()
    spoiled[2] = math.nan
    settings = gauss_newton(closed_form=False)
    fitted = fit_batch(SPEC, params, COORDINATES, spoiled, settings)
    clean = fit_batch(SPEC, params, COORDINATES, targets, settings)
    assert fitted.finite.tolist() == [True, True, False, True, True]
    assert torch.equal(fitted.latents[[0, 1, 3, 4]], clean.latents[[0, 1, 3, 4]])
    assert clean.unsolved.tolist() == [0] * 5


def test_a_scan_that_is_exact_at_once_keeps_its_damping(params: Params, targets: Tensor) -> None:
    """Its gradient is zero: no gain is predicted and none comes true, which says nothing about λ."""
    exact = field(SPEC, params, COORDINATES, torch.zeros(5, 32))
    fitted = fit_batch(SPEC, params, COORDINATES, exact, gauss_newton(closed_form=False, chunks=Chunks(72, 5)))
    assert (fitted.psnr == 100).all()
    assert fitted.unsolved.tolist() == [0] * 5


def test_gauss_newton_finds_its_own_damping(params: Params, targets: Tensor) -> None:
    """λ follows the gain that came true: begun far too cautious, it is soon where a good λ would have begun."""
    good, cautious = (
        fit_batch(SPEC, params, COORDINATES, targets, gauss_newton(steps=15, damping=damping, curvature_ratio=1.0))
        for damping in (0.5, 50.0)
    )
    assert (cautious.psnr > good.psnr - 1.0).all()
