"""The meta-gradient on the GPU, by precision, against plain autograd in float64 on the CPU, on a trained network."""

from __future__ import annotations

import os

import torch

from benchmarks.gpu import steps, trained, ways
from benchmarks.gpu.bench import Bench, Values
from medfuncta_dist.fields.params import Params

LIMITS = {"fp64": 1e-10, "fp32": 1e-4, "tf32x3": 1e-4}
"""Largest relative error; tf32's is reported without one."""


def run(bench: Bench) -> None:
    """float64 first: it proves the formulas, the others their arithmetic."""
    problem = steps.Problem.of(bench, bench.sizes.oracle_scans, batches=1)
    networks = {"trained": trained.network(bench), "untrained": steps.untrained(problem.spec, bench.device)}
    for name, params in networks.items():
        expected = oracle(bench, problem, params)
        for way in (ways.Way("fp64"), *reversed(ways.EAGER), *ways.EAGER_KERNELS):
            work = lambda params=params, way=way, expected=expected: compared(  # noqa: E731
                bench, problem, params, way, expected
            )
            bench.part(f"{name}, {way.precision}{', kernels' if way.kernels else ''}", work)


def oracle(bench: Bench, problem: steps.Problem, params: Params) -> Params:
    """Plain autograd through the unrolled inner loop, in float64 on all cores."""
    torch.set_num_threads(1 if bench.job.dry else os.cpu_count() or 1)
    double = {name: tensor.double().cpu() for name, tensor in params.items()}
    return steps.plain_gradients(problem.double_on_cpu(), double)


def compared(bench: Bench, problem: steps.Problem, params: Params, way: ways.Way, expected: Params) -> Values:
    """The error of ours, and of the baseline in the same arithmetic beside it."""
    limit = LIMITS.get(way.precision, float("inf"))
    if way.precision == "fp64":
        batch = problem.batches[0]
        problem = steps.Problem(
            problem.spec, problem.coordinates.double(), [steps.Batch(batch.targets.double(), batch.contexts)]
        )
        params, way = {name: tensor.double() for name, tensor in params.items()}, ways.Way("fp32")
    learner = ways.learner(problem.spec, params, problem.coordinates, way, bench)
    error = steps.largest_difference(steps.gradients(learner, problem.batches[0]), expected)
    with ways.baseline_products(way.precision):
        plain = steps.largest_difference(steps.plain_gradients(problem, params), expected)
    verdict = {"limit": limit, "within": error <= limit} if limit < float("inf") else {"limit": None, "within": None}
    return {"error": error, **verdict, "error_of_plain_code": plain}
