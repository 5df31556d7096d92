"""Meta steps as every section takes them: scans, context sets, a step of ours and of the published-style code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from benchmarks.fit_throughput import images
from benchmarks.gpu import ways
from benchmarks.gpu.bench import Bench
from benchmarks.meta_step import plain_step
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.outer_loop import MetaLearner

BATCHES = 4
"""Different scans and context sets that the steps of one timing go through, drawn before: training draws ahead, too."""


@dataclass(frozen=True)
class Batch:
    """What one outer step sees."""

    targets: Tensor
    contexts: list[Tensor]


@dataclass(frozen=True)
class Problem:
    """A field's size, its grid, and batches of scans on the device."""

    spec: SirenSpec
    coordinates: Tensor
    batches: list[Batch]

    @classmethod
    def of(
        cls,
        bench: Bench,
        scans: int,
        spec: SirenSpec | None = None,
        side: int | None = None,
        ratio: float | None = None,
        batches: int = BATCHES,
    ) -> Problem:
        """The usual field at the usual size unless said otherwise."""
        side, ratio = side or bench.sizes.side, ratio or bench.sizes.ratio
        found = images(bench.job.data, "train", scans * batches, side).to(bench.device)
        parts = [
            found[torch.arange(scans * n, scans * (n + 1), device=bench.device) % len(found)] for n in range(batches)
        ]
        drawn = [drawn_contexts(bench, side * side, ratio, step) for step in range(batches)]
        pairs = [Batch(*pair) for pair in zip(parts, drawn, strict=True)]
        return cls(spec or bench.sizes.spec(), grid((side, side), bench.device), pairs)

    def double_on_cpu(self) -> Problem:
        """The same for the oracle."""
        batches = [Batch(b.targets.double().cpu(), [c.cpu() for c in b.contexts]) for b in self.batches]
        return Problem(self.spec, self.coordinates.double().cpu(), batches)


def drawn_contexts(bench: Bench, points: int, ratio: float, step: int) -> list[Tensor]:
    """The context sets of an outer step, uploaded at once."""
    found = context_sets(points, ratio, bench.sizes.inner_steps, seed=0, outer_step=step)
    stacked = torch.stack(found)
    return list((stacked.pin_memory() if bench.cuda else stacked).to(bench.device, non_blocking=True).unbind())


def untrained(spec: SirenSpec, device: torch.device) -> Params:
    """The same numbers on every device."""
    return {name: tensor.to(device) for name, tensor in init_params(spec, torch.Generator().manual_seed(0)).items()}


def meta_step(learner: MetaLearner, batch: Batch) -> Tensor:
    """Losses of the batch; their mean's gradients are in the learner's parameters."""
    latents = batch.targets.new_zeros(len(batch.targets), learner.spec.latent, requires_grad=True)
    losses: Tensor = learner(batch.targets, latents, batch.contexts)
    losses.mean().backward()
    return losses.detach()


def gradients(learner: MetaLearner, batch: Batch) -> Params:
    """θ's gradients by name, of one step."""
    learner.zero_grad(set_to_none=True)
    meta_step(learner, batch)
    return {name: p.grad.detach().clone() for name, p in learner.params().items() if p.grad is not None}


def our_steps(
    bench: Bench, problem: Problem, params: Params, way: ways.Way
) -> tuple[Callable[[], Tensor], MetaLearner]:
    """A function that takes the next step each time, and whose it is."""
    scans, batches = len(problem.batches[0].targets), cycle(problem.batches)
    learner = ways.learner(problem.spec, params, problem.coordinates, way, bench, scans)

    def step() -> Tensor:
        learner.zero_grad(set_to_none=True)
        return meta_step(learner, next(batches))

    return step, learner


def plain_steps(problem: Problem, params: Params, precision: str = "fp32") -> Callable[[], None]:
    """The baseline's steps: the paper's formulas, eager, autograd through all inner steps."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}
    batches: Iterator[Batch] = cycle(problem.batches)

    def step() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        batch = next(batches)
        with ways.baseline_products(precision):
            plain_step(problem.spec, leaves, problem.coordinates, batch.targets, batch.contexts)

    return step


def plain_gradients(problem: Problem, params: Params) -> Params:
    """θ's gradients by name of the baseline's first step, in the type and on the device of what is given."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}
    batch = problem.batches[0]
    plain_step(problem.spec, leaves, problem.coordinates, batch.targets, batch.contexts)
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def largest_difference(found: Params, expected: Params) -> float:
    """The largest over θ's tensors of ‖found − expected‖ / ‖expected‖, in float64 on the CPU."""
    pairs = [(found[name].double().cpu(), tensor.double().cpu()) for name, tensor in expected.items()]
    return max(float((one - other).norm() / other.norm()) for one, other in pairs if bool(other.any()))
