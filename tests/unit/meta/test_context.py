from __future__ import annotations

import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.meta.context import context_indices, context_sets, context_size

PRINT = (
    "from medfuncta_dist.meta.context import context_indices as c;"
    "print(c(100, .25, seed=7, outer_step=3, inner_step=1).tolist())"
)


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(0.001, 1.0), st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 30))
def test_a_context_is_a_set_of_fixed_size(points: int, ratio: float, seed: int, outer: int, inner: int) -> None:
    context = context_indices(points, ratio, seed=seed, outer_step=outer, inner_step=inner)
    assert len(context) == len(set(context.tolist())) == context_size(points, ratio) >= 1
    assert context.min() >= 0
    assert context.max() < points


def test_every_rank_draws_the_same_whatever_else_it_drew() -> None:
    expected = context_indices(100, 0.25, seed=7, outer_step=3, inner_step=1)
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(context_indices(100, 0.25, seed=7, outer_step=3, inner_step=1), expected)
    environment = os.environ | {"RANK": "1", "LOCAL_RANK": "1", "PYTHONHASHSEED": "1"}
    printed = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, check=True)
    assert printed.stdout.decode().strip() == str(expected.tolist())


def test_each_step_draws_afresh_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    sets = [
        tuple(context_indices(64, 0.5, seed=s, outer_step=o, inner_step=i).tolist())
        for s in range(4)
        for o in range(4)
        for i in range(4)
    ]
    assert len(set(sets)) == len(sets)
    assert torch.equal(torch.get_rng_state(), before)


def test_all_points_are_drawn_alike() -> None:
    counts = torch.zeros(16)
    for step in range(400):
        counts[context_indices(16, 0.25, seed=0, outer_step=step, inner_step=0)] += 1
    assert counts.sum() == 1600
    assert (counts - 100).abs().max() < 40


def test_a_full_context_is_every_point_in_order() -> None:
    (context,) = context_sets(9, 1.0, 1, seed=0, outer_step=0)
    assert context.tolist() == list(range(9))


def test_sets_of_an_outer_step_are_those_of_its_inner_steps() -> None:
    sets = context_sets(30, 0.3, 3, seed=5, outer_step=2)
    for inner, context in enumerate(sets):
        assert torch.equal(context, context_indices(30, 0.3, seed=5, outer_step=2, inner_step=inner))
