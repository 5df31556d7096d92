"""Points with weights: both engines against the textbook formula, where nothing counts, and without any cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfuncta_dist.meta.losses import mse
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import CHECKED, Replayed, agrees_with_replays
from medfuncta_dist.meta.meta_gradient import adapted_losses, descend
from medfuncta_dist.meta.outer_loop import Engine, MetaLearner
from medfuncta_dist.meta.point_weights import counted, has_weight, relative
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import Problem
from tests.unit.meta.recorders import reads_no_value, record_trace
from tests.unit.meta.weighted_problems import textbook, textbook_loss, weighted_problem

ENGINES: tuple[Engine, ...] = ("unrolled", "recursive")
CHUNKS = [Chunks(7, 2), Chunks(10_000, 10_000)]


def assert_near(value: Tensor, expected: Tensor) -> None:
    assert expected.norm() > 0
    assert (value - expected).norm() <= 1e-10 * expected.norm()


def learner(p: Problem, engine: Engine = "recursive", chunks: Chunks = CHUNKS[0]) -> MetaLearner:
    return MetaLearner(p.spec, p.params, p.coordinates, p.rate, engine, chunks)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize(("dims", "variant"), [(1, "code"), (2, "paper"), (3, "code")])
def test_losses_and_every_gradient_are_those_of_the_textbook(
    dims: int, variant: str, ratio: float, engine: Engine, chunks: Chunks
) -> None:
    p, weights, targets = weighted_problem(dims, variant, ratio)
    losses, by_params, by_start = textbook(p, weights)
    model, start = learner(p, engine, chunks), p.latents.clone().requires_grad_()
    found = model(targets, start, p.contexts, weights)
    found.sum().backward()
    assert_near(found.detach(), losses)
    assert_near(start.grad, by_start)
    for name, parameter in model.params().items():
        assert_near(parameter.grad, by_params[name])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_scan_without_weight_has_no_loss_and_no_gradient(engine: Engine) -> None:
    p, weights, targets = weighted_problem()
    targets[2] = math.inf
    model, start = learner(p, engine), p.latents.clone().requires_grad_()
    losses = model(targets, start, p.contexts, weights)
    losses.sum().backward()
    assert losses[2] == 0
    assert start.grad is not None
    assert not start.grad[2].any()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_context_without_weight_gives_a_scan_no_step() -> None:
    p, weights, targets = weighted_problem()
    path = descend(p.objective(CHUNKS[0]).weighted(weights).at(p.latents), p.contexts, p.rate)
    assert torch.equal(path[1][2:4], p.latents[2:4])
    assert not torch.equal(path[2][3], p.latents[3])
    assert path[2].isfinite().all()
    assert targets.isnan().any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [1.0, 1e-6, 3e200])
def test_equal_weights_are_none_whatever_their_size(engine: Engine, value: float) -> None:
    p, weights, _ = weighted_problem()
    model = learner(p, engine)
    even = model(p.targets, p.latents, p.contexts, torch.full_like(weights, value))
    torch.testing.assert_close(even, model(p.targets, p.latents, p.contexts), rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_spoils_its_scan_alone(value: float) -> None:
    p, weights, targets = weighted_problem()
    spoiled = weights.clone()
    spoiled[0, 2] = value
    with torch.no_grad():
        clean, found = (learner(p)(targets, p.latents, p.contexts, each) for each in (weights, spoiled))
    assert found[0].isnan()
    assert torch.equal(found[1:], clean[1:])


def test_validation_gives_the_same_losses() -> None:
    p, weights, targets = weighted_problem()
    losses = adapted_losses(p.objective(CHUNKS[0]).weighted(weights), p.contexts, p.rate)
    trained = learner(p)(targets, p.latents.clone().requires_grad_(), p.contexts, weights)
    torch.testing.assert_close(losses, trained.detach(), rtol=1e-12, atol=0)


def test_the_loss_alone_is_that_of_the_textbook_and_leaves_its_inputs_alone() -> None:
    p, weights, targets = weighted_problem()
    values = torch.rand_like(p.targets)
    torch.testing.assert_close(mse(values, targets, weights), textbook_loss(values, p.targets, weights))
    assert targets[2].isnan().all()


def test_weights_become_relative_to_the_mean_of_their_scan() -> None:
    weights = torch.tensor([[1.0, 3.0], [0.0, 0.0], [3e38, 3e38], [-1.0, 2.0], [math.nan, 0.0]])
    found = relative(weights)
    assert found[:3].tolist() == [[0.5, 1.5], [0.0, 0.0], [1.0, 1.0]]
    assert found[3:].isnan().all()
    assert has_weight(found).tolist() == [True, False, True, True, True]
    assert torch.equal(relative(found[:3]), found[:3])
    assert counted(torch.full((1, 2, 1), math.nan), weights[1:2]).tolist() == [[[0.0], [0.0]]]


def step(p: Problem, seed: int) -> tuple[Tensor, ...]:
    """Of ``MetaLearner.work``, with scans and weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    targets, weights = (torch.rand(shape, generator=generator) for shape in (p.targets.shape, p.targets.shape[:2]))
    weights = (weights - 0.5).clamp(min=0)
    theta = (p.params[name] for name in p.spec.shapes())
    return targets, p.latents, torch.full((1, 1, 1), 0.1), weights, *p.contexts, *theta


def test_a_recorded_step_has_weights_too() -> None:
    p, *_ = weighted_problem(dtype=torch.float32)
    model = MetaLearner(p.spec, p.params, p.coordinates, p.rate, chunks=CHUNKS[0], arithmetic=Arithmetic("torch"))
    steps = [step(p, seed) for seed in range(CHECKED.stop)]
    assert agrees_with_replays(model.work, Replayed(model.work, record_trace), steps) == 0
    with torch.no_grad():
        reads_no_value(model.work, steps[0])


def test_a_learner_that_replays_takes_weights_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which alone keeps ``captured``: the recorder is the CPU's."""
    monkeypatch.setattr(Arithmetic, "require", lambda self, device: self)
    p, weights, targets = weighted_problem(dtype=torch.float32)
    model = learner(p)
    plain = [model(p.targets, p.latents.clone().requires_grad_(), p.contexts, *given) for given in ([], [weights])]
    model.arithmetic = replace(Arithmetic("torch"), captured=True)
    model._replayed = Replayed(model.work, record_trace)
    for given, expected in zip(([], [weights]), plain, strict=True):
        found = model(p.targets, p.latents.clone().requires_grad_(), p.contexts, *given)
        torch.testing.assert_close(found, expected)
    assert len(model._replayed._graphs) == 2
    assert targets.isnan().any()


def test_a_compiled_sweep_has_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is compared with the eager sweep, with its weights: a compiler that drops them is refused."""
    from medfuncta_dist.errors import MedfunctaError
    from medfuncta_dist.meta.machine import compiled

    monkeypatch.setattr(compiled, "_proven", set())
    compiled._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda sweep, **_: lambda *inputs: sweep(*inputs[:-1]))
    p, weights, _ = weighted_problem(dtype=torch.float32)
    objective = p.objective(CHUNKS[1], Arithmetic("torch", compiled=True))
    try:
        adapted_losses(objective, p.contexts, p.rate)
        with pytest.raises(MedfunctaError, match="differs from the eager one"):
            adapted_losses(objective.weighted(weights.float()), p.contexts, p.rate)
    finally:
        compiled._compiled.cache_clear()
