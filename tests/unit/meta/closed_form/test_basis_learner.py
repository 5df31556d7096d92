"""The basis field as a trainer sees it: losses with a gradient, numbers to log, and the network at the end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medfuncta_dist.meta.closed_form import basis_learner
from medfuncta_dist.meta.closed_form.basis_gradient import LinearFit, basis_gradient, solve
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.learner import Ranks, Trained
from tests.unit.meta.closed_form.linear_problems import TORCH, linear_fit, on_threads, rows_of

RIDGE = 1e-3


def learner(fit: LinearFit, latent: int = 4) -> BasisLearner:
    return BasisLearner(
        fit.grid.spec, fit.grid.params, fit.grid.coordinates, latent, RIDGE, fit.grid.block_points, TORCH
    )


def start(fit: LinearFit) -> Tensor:
    """Initial latents as the trainer gives them."""
    return torch.zeros(len(fit.targets), 4, dtype=fit.targets.dtype, requires_grad=True)


@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_its_losses_and_gradients_are_those_of_the_closed_form(ratio: float) -> None:
    fit = linear_fit(2, 2, ratio)
    model, latents = learner(fit), start(fit)
    losses = model(fit.targets, latents, [] if fit.context is None else [fit.context])
    losses.mean().backward()
    expected = basis_gradient(fit, RIDGE)
    assert torch.equal(losses.detach(), expected.losses)
    for name, parameter in model.params().items():
        torch.testing.assert_close(parameter.grad, expected.params[name] / len(fit.targets), rtol=1e-12, atol=0)
    assert latents.grad is not None
    assert not latents.grad.any(), "the solve starts nowhere"
    assert model.diagnostics() == {"condition": expected.factor.condition(), "ridge": RIDGE}


def test_a_ridge_that_was_raised_is_told() -> None:
    """More functions than points: their Gram matrix has eigenvalues of 0, which rounding makes negative."""
    fit = linear_fit(1, features=80)
    grid = fit.grid
    model = BasisLearner(grid.spec, grid.params, grid.coordinates, 4, 1e-16, grid.block_points, TORCH)
    model(fit.targets, start(fit), []).mean().backward()
    assert 2e-16 < model.diagnostics()["ridge"] < 2e-12


def test_gradients_follow_how_the_loss_is_scaled_and_add_up() -> None:
    fit = linear_fit(2, 1, 0.6)
    model, contexts = learner(fit), [fit.context]
    (0.7 * model(fit.targets, start(fit), contexts).mean()).backward()
    (0.2 * model(fit.targets, start(fit), contexts).sum()).backward()
    for name, expected in basis_gradient(fit, RIDGE).params.items():
        scaled = (0.7 / len(fit.targets) + 0.2) * expected
        torch.testing.assert_close(model.params()[name].grad, scaled, rtol=1e-12, atol=0)


def test_unequal_weights_are_refused() -> None:
    fit = linear_fit(1)
    losses = learner(fit)(fit.targets, start(fit), [])
    with pytest.raises(RuntimeError, match="weights all scans equally"):
        (losses * torch.arange(1, 5)).sum().backward()


def test_validation_keeps_no_graph_and_gives_the_same_losses() -> None:
    fit = linear_fit(2, 1, 0.6)
    model = learner(fit)
    assert model.diagnostics() == {}
    with torch.no_grad():
        validated = model(fit.targets, start(fit), [fit.context])
    assert not validated.requires_grad
    assert torch.equal(validated, model(fit.targets, start(fit), [fit.context]).detach())


def test_each_scans_loss_and_share_of_the_gradient_are_its_own() -> None:
    """So ranks may share out a global batch as they like."""
    fit = linear_fit(3, 2, 0.6)
    together, apart = learner(fit), learner(fit)
    losses = together(fit.targets, start(fit), [fit.context])
    losses.sum().backward()
    for rows in (slice(0, 3), slice(3, 4)):
        some = apart(fit.targets[rows], start(fit)[rows], [fit.context])
        torch.testing.assert_close(some, losses[rows], rtol=1e-12, atol=0)
        some.sum().backward()
    for name, parameter in together.params().items():
        torch.testing.assert_close(apart.params()[name].grad, parameter.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("shares", [[2, 2], [1, 3], [1, 1, 1, 1]], ids=str)
def test_ranks_with_a_share_of_the_scans_each_get_their_losses_and_together_the_gradient(shares: list[int]) -> None:
    fit = linear_fit(2, 2, 0.6)
    alone = learner(fit)
    losses = alone(fit.targets, start(fit), [fit.context])
    losses.sum().backward()

    def one(ranks: Ranks) -> tuple[Tensor, dict[str, Tensor]]:
        model, mine = learner(fit), torch.split(fit.targets, shares)[ranks.rank]
        model.ranks = ranks
        found = model(mine, start(fit)[: len(mine)], [fit.context])
        found.sum().backward()
        return found.detach(), {name: parameter.grad for name, parameter in model.params().items()}

    ranks = on_threads(len(shares), one)
    torch.testing.assert_close(torch.cat([found for found, _ in ranks]), losses.detach(), rtol=1e-12, atol=0)
    for name, parameter in alone.params().items():
        total = torch.stack([gradients[name] for _, gradients in ranks]).sum(0)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-10, atol=1e-14)


def test_ranks_finish_with_the_network_of_all_their_scans() -> None:
    fit = linear_fit(2, 2, scans=12)
    alone = finished(fit, [fit.targets])

    def one(ranks: Ranks) -> Trained:
        model = learner(fit)
        model.ranks = ranks
        return model.trained(model.params(), iter([torch.split(fit.targets, [9, 3])[ranks.rank]]))

    for trained in on_threads(2, one):
        for name, tensor in alone.params.items():
            torch.testing.assert_close(trained.params[name], tensor, rtol=1e-8, atol=1e-10)


def test_its_state_is_theta_copied_and_loads_on_another_grid() -> None:
    fit = linear_fit(2, 2)
    model = learner(fit)
    assert model.shapes == fit.grid.spec.shapes()
    assert model.state_dict().keys() == {name.replace(".", "_") for name in fit.grid.spec.shapes()}
    with torch.no_grad():
        model.params()["mean.weight"].add_(1)
    assert not torch.equal(model.params()["mean.weight"], fit.grid.params["mean.weight"])
    elsewhere = learner(linear_fit(2, 2, shape=(9, 9)))
    elsewhere.load(model.params())
    assert all(torch.equal(elsewhere.params()[name], tensor) for name, tensor in model.params().items())


def finished(fit: LinearFit, batches: list[Tensor], latent: int = 4) -> Trained:
    model = learner(fit, latent)
    return model.trained(model.params(), iter(batches))


def test_the_trained_network_has_the_number_of_latents_asked_for() -> None:
    fit = linear_fit(2, 2, scans=12)
    trained = finished(fit, [fit.targets])
    assert (trained.spec.latent, trained.spec.features, trained.spec.mapped) == (4, 7, True)
    assert {name: tuple(tensor.shape) for name, tensor in trained.params.items()} == trained.spec.shapes()
    assert trained.extras["latent.variances"].shape == (4,)
    assert trained.facts["residual"] >= 0
    assert not any(tensor.requires_grad for tensor in trained.params.values())
    assert learner(fit).scans_to_finish >= basis_learner.SCANS_PER_FEATURE * 7


def test_how_scans_come_in_batches_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = linear_fit(2, 2, scans=12)
    whole = finished(fit, [fit.targets])
    for at_once, sizes in ((256, [1] * 12), (5, [2, 3, 7]), (1, [12]), (3, [4, 4, 4])):
        monkeypatch.setattr(basis_learner, "SCANS_AT_ONCE", at_once)
        parts = finished(fit, list(torch.split(fit.targets, sizes)))
        for name, tensor in whole.params.items():
            torch.testing.assert_close(parts.params[name], tensor, rtol=1e-8, atol=1e-10)


def test_finishing_gives_a_sign_of_life_for_each_pass_over_the_scans_and_each_decomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counting(Ranks):
        signs = 0

        def alive(self) -> None:
            self.signs += 1

    monkeypatch.setattr(basis_learner, "SCANS_AT_ONCE", 4)
    fit = linear_fit(2, scans=12)
    model = learner(fit)
    model.ranks = counting = Counting()
    model.trained(model.params(), torch.split(fit.targets, 2))
    assert counting.signs == 3 + 2


def test_training_by_its_gradient_makes_the_fit_better() -> None:
    fit = linear_fit(2, 1, 0.6, scans=8, shape=(12, 10), features=12, hidden=16)
    bumps = torch.linspace(-0.6, 0.6, 8, dtype=torch.float64)[:, None, None]
    targets = torch.exp(-8 * (fit.grid.coordinates[None] - bumps).square().sum(-1, keepdim=True))
    model = learner(fit)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=BasisLearner.ADAM_EPS)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(targets, start(fit), [fit.context]).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_forward_solves_on_the_first_context_and_scores_on_all_points() -> None:
    fit = linear_fit(2, 1, 0.6)
    mean, rows = rows_of(fit)
    latents = solve(fit, RIDGE)[1]
    expected = (mean + latents @ rows.T - fit.targets.flatten(1)).square().mean(1)
    other = torch.arange(len(fit.context))
    found = learner(fit)(fit.targets, start(fit), [fit.context, other])
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=0)
    assert not torch.allclose(learner(fit)(fit.targets, start(fit), [other]).detach(), expected)
