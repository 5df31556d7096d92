"""Captured and compiled steps against eager ones of the same precision: calls 3 to 5, each on scans not seen before.

The first calls of a captured or compiled step capture and compile; what training uses are the later ones.
"""

from __future__ import annotations

import torch

from benchmarks.fit_throughput import images
from benchmarks.gpu import steps, ways
from benchmarks.gpu.bench import Bench, Values
from benchmarks.gpu.sections.fit_quality import settings
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params

CALLS = 5
FIRST_COMPARED = 2
"""0-based: the third call."""
LIMIT = 1e-4
"""Relative difference of a gradient, or of latents. Whether bits are equal is told beside it."""
COMPILE_SECONDS = 40.0
"""Left at least, before a compiled way is begun."""


def run(bench: Bench) -> None:
    """All steps and fits that are replayed, then those that are compiled."""
    sizes = bench.sizes
    params = steps.untrained(sizes.spec(), bench.device)
    problem = steps.Problem.of(bench, sizes.scans, batches=CALLS)
    for way in (*ways.KERNELS, *ways.CAPTURED, *ways.COMPILED):
        least = COMPILE_SECONDS if way.compiled and bench.cuda else 0.0
        bench.part(f"meta step, {way.name}", lambda way=way: meta_steps(bench, problem, params, way), least)
        for name in settings(bench) if not way.compiled else ():
            bench.part(f"fit, {name}, {way.name}", lambda name=name, way=way: fits(bench, params, name, way))


def meta_steps(bench: Bench, problem: steps.Problem, params: Params, way: ways.Way) -> Values:
    """Losses and gradients of the later calls."""
    eager = ways.learner(problem.spec, params, problem.coordinates, ways.Way(way.precision, kernels=way.kernels), bench)
    other = ways.learner(problem.spec, params, problem.coordinates, way, bench)
    worst, equal = 0.0, True
    for call, batch in enumerate(problem.batches):
        found = steps.gradients(other, batch)
        if call >= FIRST_COMPARED:
            expected = steps.gradients(eager, batch)
            worst = max(worst, steps.largest_difference(found, expected))
            equal = equal and all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        move(eager, other)
    return {
        "calls": f"{FIRST_COMPARED + 1} to {CALLS}",
        "largest_difference": worst,
        "equal_bits": equal,
        "good": worst <= LIMIT,
    }


@torch.no_grad()
def move(*learners: steps.MetaLearner) -> None:
    """A small change of θ between two calls, in place as an optimiser makes it: a replay has to see it."""
    for learner in learners:
        for parameter in learner.parameters():
            parameter.mul_(1.001)


def fits(bench: Bench, params: Params, name: str, way: ways.Way) -> Values:
    """Latents of the later batches."""
    sizes, given = bench.sizes, settings(bench)[name]
    coordinates = grid((sizes.side, sizes.side), bench.device)
    eager, other = (
        ways.fitter(sizes.spec(), params, coordinates, given, one, bench)
        for one in (ways.Way(way.precision, kernels=way.kernels), way)
    )
    scans = images(bench.job.data, "train", sizes.scans * CALLS, sizes.side).to(bench.device)
    batches = torch.split(scans, sizes.scans)
    found = [(other.fit(batch), eager.fit(batch)) for batch in batches][FIRST_COMPARED:]
    differences = [float((one.latents - two.latents).norm() / two.latents.norm()) for one, two in found]
    equal = all(torch.equal(one.latents, two.latents) for one, two in found)
    worst = max(differences)
    calls = f"{FIRST_COMPARED + 1} to {len(batches)}"
    return {"calls": calls, "largest_difference": worst, "equal_bits": equal, "good": worst <= LIMIT}
