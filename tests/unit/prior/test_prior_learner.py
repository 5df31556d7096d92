"""The prior learns what Gaussian latents do not have: classes that lie apart, and narrow."""

from __future__ import annotations

import pytest
import torch

from medfuncta_dist.prior.denoiser import DenoiserSpec, init_params
from medfuncta_dist.prior.drawing import draw
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.noise_schedule import LEVELS
from medfuncta_dist.prior.prior_files import Prior
from medfuncta_dist.prior.prior_latents import Appearance, Classes
from medfuncta_dist.prior.prior_learner import PriorLearner

SPEC = DenoiserSpec(numbers=2, classes=2, width=32, blocks=1)
WIDTH = 0.3
"""Standard deviation of a class; their centres are at ±0.95 of the first number, so that its variance is 1."""


def latents(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    classes = torch.randint(2, (rows,), generator=generator)
    found = torch.randn(rows, 2, generator=generator)
    found[:, 0] = WIDTH * found[:, 0] + (1.91 * classes - 0.955)
    return found, classes


def step_of(learner: PriorLearner, generator: torch.Generator) -> torch.Tensor:
    found, classes = latents(256, generator)
    levels = torch.randint(LEVELS, (256,), generator=generator)
    noise = torch.randn(256, 2, generator=generator)
    return learner(found, torch.zeros(256, 1, requires_grad=True), [classes, levels, noise]).mean()


def test_classes_are_learned_and_drawn_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    learner = PriorLearner(SPEC, init_params(SPEC, generator))
    outer, losses = torch.optim.AdamW(learner.parameters(), 1e-2, weight_decay=0.0), []
    for _ in range(400):
        loss = step_of(learner, generator)
        outer.zero_grad()
        loss.backward()
        outer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[:3]) / 3 == pytest.approx(1, abs=0.1), "white Gaussian latents have a mean loss of 1"
    assert sum(losses[-50:]) / 50 < 0.8
    coordinates = MetricCoordinates(torch.zeros(2), torch.eye(2), torch.eye(2), torch.ones(2))
    params = {name: tensor.detach() for name, tensor in learner.params().items()}
    classes = Classes((4, 7), (1, 1), 0)
    prior = Prior(SPEC, params, coordinates, classes, Appearance((0.0, 1.0), (1.0,), False), "", {}, "", "", {})
    for label_class, centre in ((0, -0.955), (1, 0.955)):
        drawn = draw(prior, 500, seed=1, label_class=label_class).whitened
        assert float(drawn[:, 0].mean()) == pytest.approx(centre, abs=0.15)
        assert float(drawn[:, 0].std()) < 0.6
        assert float(drawn[:, 1].std()) == pytest.approx(1, abs=0.2)
