"""The count of operators: of what is really computed, and fewer in larger chunks."""

from __future__ import annotations

from collections import Counter

import torch

from benchmarks.operators import Counting, Step, operators
from medfuncta_dist.fields.siren import init_params
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.meta_gradient import meta_gradient
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold

SMALL = Step(layers=4, hidden=16, latent=8, points=64, scans=4, inner_steps=2)


def counted_on_cpu(step: Step, chunks: Chunks) -> Counter[str]:
    """The same meta step with numbers."""
    params = init_params(step.spec, torch.Generator().manual_seed(0))
    coordinates, targets = torch.rand(step.points, 2), torch.rand(step.scans, step.points, 1)
    contexts = [torch.arange(round(step.ratio * step.points)) for _ in range(step.inner_steps)]
    with Counting() as counted:
        network = fold(step.spec, params, Arithmetic("torch"))
        meta_gradient(Objective(network, coordinates, targets, torch.zeros(step.scans, 8), chunks), contexts, 1e-2)
    return counted.counts


def test_without_numbers_the_same_matrix_products_are_counted_as_with_them() -> None:
    chunks = Chunks(8, 2)
    without, real = operators(SMALL, chunks), counted_on_cpu(SMALL, chunks)
    for name in ("mm", "addmm", "addmm_", "sin", "cos"):
        assert without[name] == real[name] > 0


def test_the_number_follows_the_number_of_blocks() -> None:
    one, four = (sum(operators(SMALL, chunks).values()) for chunks in (Chunks(16, 4), Chunks(4, 4)))
    assert 3 * one < four < 4 * one


def test_three_passes_have_as_many_products_and_split_their_operands_before() -> None:
    one, three = (operators(SMALL, Chunks(16, 4), precision) for precision in ("fp32", "tf32x3"))
    products = ("mm", "addmm", "addmm_")
    assert sum(one[name] for name in products) == sum(three[name] for name in products)
    assert sum(three.values()) > sum(one.values()) + 4 * sum(one[name] for name in products)


def test_the_paper_s_step_is_as_long_as_was_counted_when_larger_sweeps_were_asked_for() -> None:
    """Of one inner step instead of ten, which takes a second."""
    step = Step(inner_steps=1)
    on_a_cpu, whole = (sum(operators(step, chunks).values()) for chunks in (Chunks.sized(256), Chunks(1024, 24)))
    assert on_a_cpu > 10 * whole
