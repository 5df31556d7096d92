from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import field, init_params
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.losses import mse
from medfuncta_dist.meta.outer_loop import LOG_RATES, Engine, MetaLearner, common_weight
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import Problem, problem

ENGINES: tuple[Engine, ...] = ("unrolled", "recursive")


def learner(p: Problem, engine: Engine) -> MetaLearner:
    return MetaLearner(p.spec, p.params, p.coordinates, p.rate, engine, Chunks(7, 2))


def meta_gradients(p: Problem, engine: Engine = "unrolled") -> dict[str, Tensor]:
    model = learner(p, engine)
    model(p.targets, p.latents.clone().requires_grad_(), p.contexts).mean().backward()
    return {name: parameter.grad for name, parameter in model.params().items()}


def central_differences(loss: Callable[[], Tensor], tensor: Tensor, h: float = 1e-5) -> Tensor:
    """Derivative of ``loss`` by every element of ``tensor``, which it reads."""
    slopes = torch.empty_like(tensor)
    flat = tensor.view(-1)
    for i in range(flat.numel()):
        kept = flat[i].item()
        flat[i] = kept + h
        up = loss()
        flat[i] = kept - h
        slopes.view(-1)[i] = (up - loss()) / (2 * h)
        flat[i] = kept
    return slopes


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_meta_gradient_agrees_with_finite_differences(dims: int, variant: str, ratio: float) -> None:
    p = problem(dims, variant, ratio, batch=2, steps=2)
    model = learner(p, "unrolled")

    @torch.no_grad()
    def loss() -> Tensor:
        return model(p.targets, p.latents, p.contexts).mean()

    engines = {engine: meta_gradients(p, engine) for engine in ENGINES}
    for name in p.spec.shapes():
        expected = central_differences(loss, model.params()[name].detach())
        for engine, gradients in engines.items():
            assert (gradients[name] - expected).norm() <= 1e-6 * expected.norm(), (engine, name)


def test_the_second_order_part_is_there() -> None:
    """What a first-order approximation leaves out is far above the tolerance of the test before."""
    p = problem(2, "code", 0.5)
    adapted = adapt(p.spec, p.params, p.coordinates, p.targets, p.latents, p.contexts, p.rate, create_graph=False)
    params = {name: tensor.clone().requires_grad_() for name, tensor in p.params.items()}
    mse(field(p.spec, params, p.coordinates, adapted), p.targets).mean().backward()
    for name, gradient in meta_gradients(p).items():
        assert (params[name].grad - gradient).norm() > 1e-3 * gradient.norm(), name


@pytest.mark.parametrize("engine", ENGINES)
def test_each_scans_loss_is_its_own(engine: Engine) -> None:
    p = problem(3, "paper", 0.5, batch=3)
    model = learner(p, engine)
    together = model(p.targets, p.latents, p.contexts)
    for i in range(3):
        alone = model(p.targets[i : i + 1], p.latents[i : i + 1], p.contexts)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_initial_latents_receive_a_gradient(engine: Engine) -> None:
    p = problem(1, "code", 0.5)
    start, model = p.latents.clone().requires_grad_(), learner(p, engine)
    model(p.targets, start, p.contexts).sum().backward()
    expected = central_differences(lambda: model(p.targets, p.latents, p.contexts).sum().detach(), p.latents)
    assert (start.grad - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_validation_keeps_no_graph_and_gives_the_same_loss(engine: Engine) -> None:
    p = problem(2, "paper", 0.5)
    model = learner(p, engine)
    trained = model(p.targets, p.latents.requires_grad_(), p.contexts)
    with torch.no_grad():
        validated = model(p.targets, p.latents, p.contexts)
    assert not validated.requires_grad
    torch.testing.assert_close(validated, trained.detach(), rtol=1e-12, atol=0)


def test_gradients_follow_how_the_loss_is_scaled_and_averaged() -> None:
    p = problem(2, "code", 0.5)
    models = [learner(p, engine) for engine in ENGINES]
    for model in models:
        (0.7 * model(p.targets, p.latents, p.contexts).mean()).backward()
        (0.2 * model(p.targets, p.latents, p.contexts).sum()).backward()
    for name, expected in models[0].params().items():
        torch.testing.assert_close(models[1].params()[name].grad, expected.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("read", [True, False])
def test_weights_that_are_equal_are_taken_whether_they_are_read_or_not(read: bool) -> None:
    assert common_weight(torch.full((3,), 0.25), read=read).item() == 0.25
    assert common_weight(torch.tensor([2.0]), read=read).item() == 2.0


def test_unequal_weights_that_are_not_read_spoil_every_gradient_of_theta(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where nothing is read: the norm of the gradients then says it."""
    monkeypatch.setattr("medfuncta_dist.meta.outer_loop.can_be_read_freely", lambda weights: False)
    p = problem(1, "paper", 0.5)
    model, learned = learner(p, "recursive"), MetaLearner(p.spec, p.params, p.coordinates, p.rate, learn_rates=True)
    for one in (model, learned):
        losses = one(p.targets, p.latents, p.contexts)
        losses.mean().backward(retain_graph=True)
        assert all(parameter.grad.isfinite().all() for parameter in one.parameters())
        one.zero_grad()
        (losses * torch.arange(1.0, 1 + len(losses))).sum().backward()
        assert all(parameter.grad.isnan().all() for parameter in one.parameters())


def test_rates_that_are_not_learned_move_with_the_module() -> None:
    p = problem(1, "paper", 0.5)
    assert learner(p, "recursive").to("meta").rates.device.type == "meta"


def test_unequal_weights_are_refused_by_the_recursive_engine() -> None:
    p = problem(1, "paper", 1.0)
    losses = learner(p, "recursive")(p.targets, p.latents, p.contexts)
    with pytest.raises(RuntimeError, match="weights all scans equally"):
        (losses * torch.arange(1, 4)).sum().backward()


def test_state_holds_theta_and_nothing_else() -> None:
    p = problem(2, "code", 1.0)
    model = learner(p, "recursive")
    assert model.state_dict().keys() == {name.replace(".", "_") for name in p.spec.shapes()}
    elsewhere = MetaLearner(p.spec, init_params(p.spec, torch.Generator().manual_seed(9)), grid([9, 9]), p.rate)
    elsewhere.load(p.params)
    assert all(torch.equal(elsewhere.params()[n], p.params[n].float()) for n in p.params)


@pytest.mark.parametrize("engine", ENGINES)
def test_learned_rates_receive_the_gradient_by_their_logarithm(engine: Engine) -> None:
    p = problem(2, "code", 0.5)
    p.rate = torch.tensor([[0.05, 0.1, 0.2], [0.3, 0.02, 0.1]])
    model = MetaLearner(p.spec, p.params, p.coordinates, p.rate, engine, Chunks(7, 2), learn_rates=True)
    torch.testing.assert_close(model.rates[:, 0], p.rate.double(), rtol=1e-6, atol=0)
    model(p.targets, p.latents, p.contexts).mean().backward()
    logs = model.params()[LOG_RATES]
    expected = central_differences(lambda: model(p.targets, p.latents, p.contexts).mean().detach(), logs.detach())
    assert (logs.grad - expected).norm() <= 1e-6 * expected.norm()


def test_learned_rates_are_part_of_the_state_and_come_back_from_it() -> None:
    p = problem(2, "code", 1.0)
    learned = MetaLearner(p.spec, p.params, p.coordinates, torch.full((2, 3), 0.5), learn_rates=True)
    assert learned.shapes == {**p.spec.shapes(), LOG_RATES: (2, 1, 3)}
    again = MetaLearner(p.spec, p.params, p.coordinates, torch.full((2, 3), 0.1), learn_rates=True)
    again.load(learned.params())
    assert torch.equal(again.rates, learned.rates)


def test_the_given_parameters_are_copied() -> None:
    p = problem(1, "paper", 1.0)
    model = learner(p, "recursive")
    with torch.no_grad():
        model.params()["layer.1.weight"].add_(1)
    assert not torch.equal(model.params()["layer.1.weight"], p.params["layer.1.weight"])
