"""The latent's own coordinates: orthonormal, ordered, the best p numbers, the mean scan at zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.basis import MAP, field
from medfuncta_dist.meta.closed_form.basis_gradient import LinearFit
from medfuncta_dist.meta.closed_form.principal_latents import (
    Orthonormal,
    ScanMoments,
    add_scans,
    mean_gram,
    principal,
    trained_with,
)
from medfuncta_dist.meta.learner import Trained
from tests.unit.meta.closed_form.linear_problems import linear_fit, on_threads, rows_of, with_grid

CPU = torch.device("cpu")
LATENT = 6


def smooth(fit: LinearFit, scans: int, seed: int = 0) -> Tensor:
    """Scans that vary in few ways much and in many little: two bumps each, at random places."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(scans, 2, 1, fit.grid.spec.coords, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    heights = torch.rand(scans, 2, 1, fit.grid.spec.channels, generator=generator, dtype=torch.float64)
    near = torch.exp(-6 * (fit.grid.coordinates.double() - places).square().sum(-1, keepdim=True))
    return (near * heights).sum(1).to(fit.targets.dtype)


def problem(
    scans: int = 40, dtype: torch.dtype = torch.float64, dims: int = 2, channels: int = 1, block: int = 50
) -> LinearFit:
    """Sixteen functions, on a grid of some hundred points."""
    shape = {1: (90,), 2: (14, 12), 3: (6, 5, 6)}[dims]
    fit = linear_fit(dims, channels, shape=shape, features=16, hidden=20, dtype=dtype, block=block)
    return replace(fit, targets=smooth(fit, scans))


def moments_of(fit: LinearFit, *batches: Tensor) -> ScanMoments:
    moments = ScanMoments.none(fit.grid.spec.features, CPU)
    for targets in batches or (fit.targets,):
        add_scans(moments, fit.grid, targets)
    return moments


def finished(fit: LinearFit, latent: int = LATENT, moments: ScanMoments | None = None) -> Trained:
    moments = moments or moments_of(fit)
    found = principal(Orthonormal.of(mean_gram(fit.grid)), moments, latent)
    return trained_with(fit.grid.spec, fit.grid.params, found, int(moments.count))


def functions(fit: LinearFit, trained: Trained) -> tuple[Tensor, Tensor]:
    """Mean and functions on the grid, in float64."""
    params = {name: tensor.double() for name, tensor in trained.params.items()}
    mean, rows = rows_of(with_grid(fit, spec=trained.spec, coordinates=fit.grid.coordinates.double()), params)
    return mean, rows


def latents_of(fit: LinearFit, trained: Trained) -> Tensor:
    """By projection: the functions are orthonormal in the mean over all values."""
    mean, rows = functions(fit, trained)
    return (fit.targets.double().flatten(1) - mean) @ rows / fit.grid.values


SHAPES = [(1, 1), (2, 1), (2, 2), (3, 2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("dims", "channels"), SHAPES)
def test_the_functions_are_orthonormal_on_the_grid(dims: int, channels: int, dtype: torch.dtype) -> None:
    fit = problem(dims=dims, channels=channels, dtype=dtype)
    trained = finished(fit)
    assert trained.params[MAP].dtype == dtype
    rows = functions(fit, trained)[1]
    gram = rows.T @ rows / fit.grid.values
    assert (gram - torch.eye(LATENT, dtype=torch.float64)).abs().max() <= 1e-4


@pytest.mark.parametrize(("dims", "channels"), SHAPES)
def test_variances_fall_and_are_those_of_the_scans_latents(dims: int, channels: int) -> None:
    fit = problem(dims=dims, channels=channels)
    trained = finished(fit)
    variances = trained.extras["latent.variances"].double()
    assert (variances.diff() <= 0).all()
    latents = latents_of(fit, trained)
    torch.testing.assert_close(latents.square().mean(0), variances, rtol=1e-3, atol=1e-5 * float(variances[0]))
    covariance = latents.T @ latents / len(latents)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.02 * variances[0]


def test_distances_between_latents_are_distances_between_images() -> None:
    fit = problem(dims=2, channels=2)
    trained = finished(fit)
    params = {name: tensor.double() for name, tensor in trained.params.items()}
    latents = torch.randn(2, 9, LATENT, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    one, other = (field(trained.spec, params, fit.grid.coordinates, each) for each in latents)
    found = (one - other).square().mean((1, 2))
    torch.testing.assert_close(found, (latents[0] - latents[1]).square().sum(1), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("dims", "channels"), SHAPES)
def test_the_mean_training_scan_is_at_zero(dims: int, channels: int) -> None:
    fit = problem(dims=dims, channels=channels)
    trained = finished(fit)
    latents = latents_of(fit, trained)
    assert latents.mean(0).norm() <= 1e-3 * latents.norm(dim=1).mean()
    assert (
        latents_of(fit, replace(trained, params=trained.params | {"mean.weight": fit.grid.params["mean.weight"]}))
        .mean(0)
        .norm()
        > 0.1 * latents.norm(dim=1).mean()
    ), "or there was nothing to move"


def left_by(fit: LinearFit, mean: Tensor, rows: Tensor) -> float:
    """The mean squared error of the scans' best fit by these functions."""
    residues = fit.targets.double().flatten(1) - mean
    fitted = torch.linalg.lstsq(rows, residues.T).solution
    return float((rows @ fitted - residues.T).square().mean())


def test_the_first_numbers_are_at_least_as_good_as_any_others_and_what_they_leave_is_told() -> None:
    fit = problem()
    trained = finished(fit)
    mean, rows = functions(fit, trained)
    generator = torch.Generator().manual_seed(5)
    every = functions(fit, finished(fit, 16))[1]
    for p in (1, 3, LATENT):
        best = left_by(fit, mean, rows[:, :p])
        for _ in range(20):
            mix = torch.randn(16, p, generator=generator, dtype=torch.float64)
            assert best < left_by(fit, mean, every @ mix)
        near = rows[:, :p] + 0.2 * every @ torch.randn(16, p, generator=generator, dtype=torch.float64)
        assert best < left_by(fit, mean, near)
    assert trained.facts["residual"] == pytest.approx(left_by(fit, mean, rows), rel=1e-3)


def test_where_the_features_span_everything_they_are_as_good_as_principal_components() -> None:
    points, latent = 20, 5
    fit = linear_fit(1, 1, shape=(points,), features=60, hidden=60, block=7)
    fit = replace(fit, targets=smooth(fit, 50))
    trained = finished(fit, latent)
    mean, rows = functions(fit, trained)
    scans = fit.targets.double().flatten(1)
    centred = scans - scans.mean(0)
    squares = torch.linalg.svdvals(centred).square() / centred.numel()
    for p in range(1, latent + 1):
        assert left_by(fit, mean, rows[:, :p]) == pytest.approx(float(squares[p:].sum()), rel=0.02, abs=1e-6)
    found = trained.extras["latent.variances"].double()
    torch.testing.assert_close(found, squares[:latent], rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("scans", [1, 3, LATENT])
def test_fewer_scans_than_numbers_leave_directions_to_the_features(scans: int) -> None:
    fit = problem(scans=scans)
    trained = finished(fit)
    rows = functions(fit, trained)[1]
    gram = rows.T @ rows / fit.grid.values
    assert (gram - torch.eye(LATENT, dtype=torch.float64)).abs().max() <= 1e-4
    variances = trained.extras["latent.variances"]
    assert torch.isfinite(variances).all()
    assert (variances >= 0).all()
    assert (variances[scans:] <= 1e-2 * variances[0]).all() or scans == 1
    assert trained.facts["residual"] < 0.05


def test_directions_that_scans_do_not_decide_are_those_that_the_features_give_most() -> None:
    """Three scans decide two of six; the others are nearly the features' own principal directions."""
    fit = problem(scans=3)
    features, rows = rows_of(fit)[1], functions(fit, finished(fit))[1]
    found = (features.T @ rows / fit.grid.values).square().sum()
    own = torch.linalg.eigvalsh(features.T @ features / fit.grid.values).flip(0)
    assert found >= 0.95 * own[: LATENT - 2].sum()


def test_a_direction_has_one_sign() -> None:
    fit = problem()
    found = finished(fit).params[MAP]
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    again = finished(replace(fit, targets=fit.targets.flip(0))).params[MAP]
    torch.testing.assert_close(again, found, rtol=1e-6, atol=1e-8)


def test_the_same_scans_give_the_same_bits() -> None:
    first, again = (finished(problem(dtype=torch.float32)) for _ in range(2))
    assert all(torch.equal(again.params[name], tensor) for name, tensor in first.params.items())
    assert torch.equal(again.extras["latent.variances"], first.extras["latent.variances"])


@pytest.mark.parametrize("sizes", [[40], [3, 37], [10, 10, 10, 10], [40, 0]])
def test_scans_of_several_ranks_summed_give_what_one_gives(sizes: list[int]) -> None:
    fit = problem()
    shares = torch.split(fit.targets, sizes)
    moments = on_threads(len(sizes), lambda ranks: moments_of(fit, shares[ranks.rank]).over(ranks))
    together = finished(fit, moments=moments[-1])
    alone = finished(fit)
    for name, tensor in alone.params.items():
        torch.testing.assert_close(together.params[name], tensor, rtol=1e-8, atol=1e-10)
    assert together.facts["residual"] == pytest.approx(alone.facts["residual"], rel=1e-8)


def test_blocks_of_points_do_not_matter() -> None:
    whole, blocks = finished(problem(block=10_000)), finished(problem(block=1))
    for name, tensor in whole.params.items():
        torch.testing.assert_close(blocks.params[name], tensor, rtol=1e-7, atol=1e-9)


def test_the_gram_matrix_of_ranks_that_divide_the_points_is_that_of_one() -> None:
    fit = problem(block=7)
    for found in on_threads(3, lambda ranks: mean_gram(replace(fit.grid, ranks=ranks))):
        torch.testing.assert_close(found, mean_gram(fit.grid), rtol=1e-12, atol=1e-14)


def test_numbers_beyond_what_the_features_span_are_never_used() -> None:
    """Of sixteen features on eleven points, eleven functions are independent."""
    fit = linear_fit(1, 1, shape=(11,), features=16, hidden=20)
    fit = replace(fit, targets=smooth(fit, 30))
    trained = finished(fit, 14)
    rows, variances = functions(fit, trained)[1], trained.extras["latent.variances"]
    gram = rows.T @ rows / fit.grid.values
    assert (gram[:11, :11] - torch.eye(11, dtype=torch.float64)).abs().max() <= 1e-3
    assert not rows[:, 11:].any()
    assert not variances[11:].any()
    assert trained.facts["residual"] < 1e-6
    assert trained.spec.latent == 14


@pytest.mark.parametrize("scans", [1, 8])
def test_scans_that_do_not_vary_leave_all_directions_to_the_features(scans: int) -> None:
    fit = problem(scans=1)
    fit = replace(fit, targets=fit.targets.expand(scans, -1, -1))
    features, rows = rows_of(fit)[1], functions(fit, finished(fit))[1]
    found = (features.T @ rows / fit.grid.values).square().sum()
    own = torch.linalg.eigvalsh(features.T @ features / fit.grid.values).flip(0)
    assert found >= 0.95 * own[:LATENT].sum()


@pytest.mark.parametrize("what", ["a training scan", "the field's features"])
def test_what_is_not_finite_is_named(what: str) -> None:
    fit = problem()
    if what == "a training scan":
        fit.targets[3, 5] = torch.nan
    else:
        fit.grid.params["layer.1.bias"][0] = torch.inf
    with pytest.raises(MedfunctaError, match=what):
        finished(fit)
