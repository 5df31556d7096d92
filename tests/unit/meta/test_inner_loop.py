from __future__ import annotations

import math

import pytest
import torch

from medfuncta_dist.fields.siren import field
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.losses import mse
from tests.unit.meta.problems import Problem, problem


def adapted(p: Problem, targets: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return adapt(p.spec, p.params, p.coordinates, targets, latents, p.contexts, p.rate, create_graph=False)


def test_a_step_descends_along_the_gradient_on_its_context() -> None:
    p = problem(2, "code", 0.5, batch=1, steps=1)
    moved = adapted(p, p.targets, p.latents)
    (context,), h = p.contexts, 1e-6
    for i in range(p.spec.latent):
        nudge = torch.zeros_like(p.latents)
        nudge[0, i] = h
        up, down = (
            mse(field(p.spec, p.params, p.coordinates[context], p.latents + s * nudge), p.targets[:, context])
            for s in (1, -1)
        )
        slope = (up - down) / (2 * h)
        assert moved[0, i].item() == pytest.approx((p.latents[0, i] - p.rate * slope).item(), abs=1e-8)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_each_scan_moves_as_if_it_were_alone(variant: str) -> None:
    p = problem(2, variant, 0.5, batch=4)
    together = adapted(p, p.targets, p.latents)
    for i in range(4):
        alone = adapted(p, p.targets[i : i + 1], p.latents[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-14)


def test_a_nan_scan_leaves_its_neighbours_bits_alone() -> None:
    p = problem(1, "code", 1.0, batch=3, dtype=torch.float32)
    spoiled = p.targets.clone()
    spoiled[1, 4] = math.nan
    clean, with_nan = adapted(p, p.targets, p.latents), adapted(p, spoiled, p.latents)
    assert torch.isnan(with_nan[1]).all()
    assert torch.equal(with_nan[[0, 2]], clean[[0, 2]])


def test_without_a_graph_nothing_is_kept() -> None:
    p = problem(1, "paper", 1.0)
    start = p.latents.clone().requires_grad_()
    with torch.no_grad():
        assert not adapted(p, p.targets, start).requires_grad
    assert not adapted(p, p.targets, start).requires_grad
