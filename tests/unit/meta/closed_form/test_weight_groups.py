"""The closed form with weights of points: against autograd through a dense solve for each scan."""

from __future__ import annotations

import math
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.closed_form import weight_groups
from medfuncta_dist.meta.closed_form.basis_gradient import LinearFit, basis_gradient, solve, solved_losses
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.closed_form.normal_equations import Factor
from medfuncta_dist.meta.closed_form.weight_groups import Group, groups_of, within
from medfuncta_dist.meta.learner import Ranks
from medfuncta_dist.meta.point_weights import relative
from tests.unit.meta.closed_form.linear_problems import (
    TORCH,
    ThreadRanks,
    linear_fit,
    on_threads,
    rows_of,
    seen_values,
)

RIDGE = 1e-2


def weights_for(fit: LinearFit) -> Tensor:
    """Of six scans: unequal, a mask, the same mask again, none, none in the context, and 7 everywhere."""
    points = len(fit.grid.coordinates)
    weights = torch.rand(6, points, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights[1] = weights[2] = (weights[1] > 0.3).double()
    weights[3] = 0
    weights[4, fit.context if fit.context is not None else slice(0, points, 2)] = 0
    weights[5] = 7
    return weights


def weighted_fit(dims: int = 2, channels: int = 1, ratio: float = 1.0, block: int = 7) -> tuple[LinearFit, Tensor]:
    """A fit with relative weights, and these as they were given."""
    fit = linear_fit(dims, channels, ratio, block=block, scans=6)
    weights = weights_for(fit)
    return replace(fit, weights=relative(weights)), weights


def oracle(fit: LinearFit, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses, and autograd's gradient of their sum through one dense solve per scan."""
    params = {name: tensor.clone().requires_grad_() for name, tensor in fit.grid.params.items()}
    mean, rows = rows_of(fit, params)
    seen, losses = seen_values(fit), []
    for target, weight in zip(
        fit.targets.flatten(1), weights.repeat_interleave(fit.grid.spec.channels, 1), strict=True
    ):
        inner = torch.diag(weight[seen])
        latent = torch.zeros(rows.shape[1], dtype=torch.float64)
        if weight[seen].any():
            gram = rows[seen].T @ inner @ rows[seen]
            regular = gram + RIDGE * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
            latent = torch.linalg.solve(regular, rows[seen].T @ inner @ (target - mean)[seen])
        squares = (mean + rows @ latent - target) ** 2
        losses.append((weight * squares).sum() / weight.sum() if weight.any() else 0 * squares.sum())
    total = torch.stack(losses)
    found = torch.autograd.grad(total.sum(), list(params.values()))
    return total.detach(), dict(zip(params, found, strict=True))


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("block", [7, 10_000])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize(("dims", "channels"), [(1, 1), (2, 2), (3, 1)])
def test_losses_and_every_gradient_are_those_of_autograd(dims: int, channels: int, ratio: float, block: int) -> None:
    fit, weights = weighted_fit(dims, channels, ratio, block)
    losses, expected = oracle(fit, weights)
    found = basis_gradient(fit, RIDGE)
    assert_near(found.losses, losses)
    assert torch.equal(solved_losses(fit, RIDGE), found.losses)
    for name, gradient in found.params.items():
        assert_near(gradient, expected[name])


def test_parts_that_have_room_for_one_group_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, _ = weighted_fit(2, 2, 0.6)
    whole = basis_gradient(fit, RIDGE)
    monkeypatch.setattr(weight_groups, "KEPT_BYTES", 1)
    assert len(within(fit.weights, 7)[1]) == 5
    apart = basis_gradient(fit, RIDGE)
    assert_near(apart.losses, whole.losses)
    for name, gradient in whole.params.items():
        assert_near(apart.params[name], gradient)


def test_equal_weights_share_one_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, _ = weighted_fit()
    made, found = [], Factor.found
    monkeypatch.setattr(Factor, "found", lambda *given: made.append(1) or found(*given))
    basis_gradient(fit, RIDGE)
    assert len(made) == 4, "of six scans: two have equal weights, one has none"


def test_equal_weights_everywhere_are_none() -> None:
    fit = linear_fit(2, 2, 0.6)
    even = basis_gradient(replace(fit, weights=torch.ones(4, 30, dtype=torch.float64)), RIDGE)
    plain = basis_gradient(fit, RIDGE)
    assert_near(even.losses, plain.losses)
    for name, gradient in plain.params.items():
        assert_near(even.params[name], gradient)


def test_a_scan_without_weight_in_the_context_has_the_latent_0() -> None:
    fit, _ = weighted_fit(2, 1, 0.6)
    factors, latents = solve(fit, RIDGE)
    assert [factor is None for factor in factors] == [False, False, True, True, False]
    assert not latents[3:5].any()
    assert latents[[0, 1, 2, 5]].any(1).all()


def test_groups_are_runs_of_equal_weights_and_parts_cut_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_groups, "KEPT_BYTES", 3 * 8 * 16 * 2)
    weights = torch.tensor([[2.0, 1.0], [0.0, 3.0], [2.0, 1.0], [0.0, 3.0], [5.0, 5.0]])
    order, parts = within(weights, features=4)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert parts == [slice(0, 4), slice(4, 5)]
    assert groups_of(weights[order], 5) == [Group(slice(0, 2), 2), Group(slice(2, 4), 2), Group(slice(4, 5), 1)]
    assert groups_of(None, 5) == [Group(slice(None), 5)]


def learner(fit: LinearFit) -> BasisLearner:
    return BasisLearner(fit.grid.spec, fit.grid.params, fit.grid.coordinates, 4, RIDGE, 7, TORCH)


def start(scans: int) -> Tensor:
    return torch.zeros(scans, 4, dtype=torch.float64, requires_grad=True)


def test_a_learner_takes_weights_and_values_that_do_not_count_may_be_anything() -> None:
    fit, weights = weighted_fit(2, 2, 0.6)
    losses, expected = oracle(fit, weights)
    model = learner(fit)
    targets = torch.where(weights[..., None] > 0, fit.targets, math.nan)
    found = model(targets, start(6), [fit.context], weights)
    found.sum().backward()
    assert_near(found.detach(), losses)
    assert found[3] == 0
    assert model.diagnostics()["ridge"] == RIDGE
    for name, parameter in model.params().items():
        assert_near(parameter.grad, expected[name])


def test_no_weight_at_all_is_no_loss_and_no_gradient() -> None:
    fit = linear_fit(2)
    model = learner(fit)
    losses = model(fit.targets, start(4), [], torch.zeros(4, 30, dtype=torch.float64))
    losses.sum().backward()
    assert not losses.any()
    assert not any(parameter.grad.any() for parameter in model.parameters())
    assert model.diagnostics() == {}


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(value: float) -> None:
    fit, weights = weighted_fit()
    weights[1, 3] = value
    with pytest.raises(MedfunctaError, match="negative or not finite"):
        learner(fit)(fit.targets, start(6), [], weights)


def test_ranks_with_scans_of_their_own_find_their_losses_and_together_the_gradient() -> None:
    fit, weights = weighted_fit(2, 2, 0.6)
    alone = basis_gradient(fit, RIDGE)

    def one(ranks: Ranks) -> tuple[Tensor, dict[str, Tensor]]:
        model = learner(fit)
        model.ranks = ranks
        targets, own = (torch.split(each, [2, 4])[ranks.rank] for each in (fit.targets, weights))
        found = model(targets, start(len(targets)), [fit.context], own)
        found.sum().backward()
        return found.detach(), {name: parameter.grad for name, parameter in model.params().items()}

    ranks = on_threads(2, one)
    assert_near(torch.cat([losses for losses, _ in ranks]), alone.losses)
    for name, gradient in alone.params.items():
        assert_near(torch.stack([by[name] for _, by in ranks]).sum(0), gradient)


def test_what_does_not_count_is_filled_with_what_the_field_gives_there() -> None:
    fit, weights = weighted_fit(2, 2)
    mean, rows = rows_of(fit)
    latents = torch.randn(6, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = (mean + latents @ rows.T).view_as(fit.targets)
    holes = torch.where(weights[..., None] > 0, whole, math.nan)
    model = learner(fit)
    model.ridge = 1e-12
    model.ranks = ThreadRanks(0, [torch.empty(0)] * 2, Barrier(2))  # each rank has scans of its own: nobody is asked
    found = model.filled(model.params(), holes, weights)
    assert torch.equal(found[weights > 0], whole[weights > 0])
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(found[others], whole[others], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[3].flatten(), mean)
