"""Memory that runs out in a training step: half the chunks, once, and it is said; the result is the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import Problem, problem

WHOLE = Chunks(20, 3)


def learner_of(p: Problem) -> MetaLearner:
    return MetaLearner(p.spec, p.params, p.coordinates, 0.1, chunks=WHOLE)


def stepped(p: Problem, learner: MetaLearner) -> Tensor:
    losses: Tensor = learner(p.targets, p.latents.clone().requires_grad_(), p.contexts)
    losses.mean().backward()
    return losses


def failing(learner: MetaLearner, most: int, error: Callable[[], Exception]) -> Callable[..., Any]:
    """The step of a device that has room for so many points at once."""
    work = learner.work

    def step(*inputs: Tensor) -> list[Tensor]:
        if learner.chunks.points > most:
            raise error()
        return work(*inputs)

    return step


@pytest.mark.parametrize("error", [lambda: torch.OutOfMemoryError("CUDA out of memory."), MemoryError])
def test_it_goes_on_with_half_the_chunks_and_says_so(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    p, told = problem(2, "paper", 0.5), []
    plain, short = learner_of(p), learner_of(p)
    short.on_halved = told.append
    monkeypatch.setattr(short, "work", failing(short, 10, error))
    torch.testing.assert_close(stepped(p, short), stepped(p, plain), rtol=1e-12, atol=0)
    for one, other in zip(short.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
    stepped(p, short)
    assert told == [Chunks(10, 3)]


def test_where_half_is_too_much_it_ends_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(2, "paper", 0.5)
    learner = learner_of(p)
    monkeypatch.setattr(learner, "work", failing(learner, 5, lambda: torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(MedfunctaError, match=r"although chunks were halved already \(CUDA out of memory") as found:
        stepped(p, learner)
    assert found.value.where == "at most 10 points of 3 scans at once"


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(2, "paper", 0.5)
    learner = learner_of(p)
    monkeypatch.setattr(learner, "work", failing(learner, 10, lambda: RuntimeError("the sizes do not match")))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        stepped(p, learner)
    assert learner.chunks == WHOLE


def test_a_real_allocation_that_fails() -> None:
    """A process that may have 700 MB more: a sweep of all points needs 1.1 GB, one of half of them 0.6."""
    code = """
import resource, torch
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks, sweep_bytes
torch.set_num_threads(1)
spec = SirenSpec.linear(coords=1, channels=1, layers=6, hidden=64, latent=4, omega_first=10, omega_last=20)
points = 2**30 // sweep_bytes(6, 64)
learner = MetaLearner(spec, init_params(spec, torch.Generator().manual_seed(0)), grid((points,)), 0.1,
                      chunks=Chunks(points, 1))
learner.on_halved = lambda chunks: print(points // chunks.points)
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + 7 * 2**27, used + 7 * 2**27))
contexts = context_sets(points, 1.0, 1, seed=0, outer_step=0)
learner(torch.rand(1, points, 1), torch.zeros(1, 4, requires_grad=True), contexts).mean().backward()
print(all(bool(torch.isfinite(one.grad).all()) for one in learner.parameters()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "True"], done.stderr
