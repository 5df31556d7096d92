"""A whole outer step as one recording: it reads no value on the host, and its replays are the eager step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfuncta_dist.fields.siren import init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import CHECKED, Replayed, agrees_with_replays
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import Problem, problem
from tests.unit.meta.recorders import reads_no_value, record_trace

EAGER = Arithmetic("torch")
VARIANTS = [(2, "paper", False), (1, "code", False), (2, "code", True)]
"""Dimensions, variant, learned rates."""


def learner_of(p: Problem, learned: bool) -> MetaLearner:
    rate = torch.full((len(p.contexts), 1), 0.1) if learned else 0.1
    return MetaLearner(
        p.spec, p.params, p.coordinates, rate, chunks=Chunks(8, 2), arithmetic=EAGER, learn_rates=learned
    )


def inputs_of(p: Problem, learner: MetaLearner, seed: int) -> tuple[Tensor, ...]:
    """Of a step with scans, context sets, latents and θ of its own."""
    generator = torch.Generator().manual_seed(seed)
    theta = init_params(p.spec, generator)
    contexts = context_sets(len(p.coordinates), 0.5, len(p.contexts), seed=seed, outer_step=0)
    changing = [torch.rand(p.targets.shape, generator=generator), torch.randn(p.latents.shape, generator=generator)]
    names = p.spec.shapes()
    return (*changing, learner.rates.detach(), *contexts, *(theta[name] for name in names))


@pytest.mark.parametrize(("dims", "variant", "learned"), VARIANTS)
def test_replays_of_a_step_are_the_eager_step(dims: int, variant: str, learned: bool) -> None:
    p = problem(dims, variant, 0.5, dtype=torch.float32)
    learner = learner_of(p, learned)
    steps = [inputs_of(p, learner, seed) for seed in range(CHECKED.stop)]
    assert agrees_with_replays(learner.work, Replayed(learner.work, record_trace), steps) == 0


@pytest.mark.parametrize(("dims", "variant", "learned"), VARIANTS)
def test_a_step_reads_no_value_on_the_host(dims: int, variant: str, learned: bool) -> None:
    p = problem(dims, variant, 0.5, dtype=torch.float32)
    learner = learner_of(p, learned)
    with torch.no_grad():
        reads_no_value(learner.work, inputs_of(p, learner, 0))


def test_training_with_replays_gives_the_same_gradients_step_after_step() -> None:
    p = problem(2, "paper", 0.5, dtype=torch.float32)
    eager, replaying = learner_of(p, False), learner_of(p, False)
    replaying._step = Replayed(replaying.work, record_trace)  # type: ignore[method-assign]
    for step in range(3):
        targets = torch.rand(p.targets.shape, generator=torch.Generator().manual_seed(step))
        contexts = context_sets(len(p.coordinates), 0.5, 3, seed=0, outer_step=step)
        losses = []
        for learner in (eager, replaying):
            latents = torch.zeros_like(p.latents, requires_grad=True)
            losses.append(learner(targets, latents, contexts))
            losses[-1].mean().backward()
            torch.optim.SGD(learner.parameters(), lr=0.1).step()
            learner.zero_grad()
        assert torch.equal(*losses)
    assert all(torch.equal(one, other) for one, other in zip(eager.parameters(), replaying.parameters(), strict=True))


def test_a_CPU_records_nothing() -> None:
    p = problem(2, "paper", 0.5, dtype=torch.float32)
    learner = learner_of(p, False)
    learner.arithmetic = replace(EAGER, captured=True)
    learner(p.targets, p.latents.requires_grad_(), p.contexts).mean().backward()
    assert not learner._replayed._graphs


def test_a_learner_whose_arithmetic_says_so_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which alone keeps ``captured``: the recorder is the CPU's."""
    monkeypatch.setattr(Arithmetic, "require", lambda self, device: self)
    p = problem(2, "paper", 0.5, dtype=torch.float32)
    learner = learner_of(p, False)
    learner.arithmetic = replace(EAGER, captured=True)
    learner._replayed = Replayed(learner.work, record_trace)
    for _ in range(2):
        learner(p.targets, p.latents.clone().requires_grad_(), p.contexts).mean().backward()
    assert len(learner._replayed._graphs) == 1
