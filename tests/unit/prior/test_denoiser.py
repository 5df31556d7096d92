"""The denoiser: what it begins with, and that a row depends on its own latent, level and class alone."""

from __future__ import annotations

import torch

from medfuncta_dist.prior.denoiser import DenoiserSpec, init_params, velocity

SPEC = DenoiserSpec(numbers=5, classes=2, width=16, blocks=2)


def drawn(seed: int = 0, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """Parameters of which none is zero."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SPEC.shapes().items()}


def inputs(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noisy = torch.randn(rows, 5, generator=torch.Generator().manual_seed(2))
    return noisy, torch.tensor([0, 10, 500, 999][:rows]), torch.tensor([0, 1, 2, 0][:rows])


def test_it_begins_with_the_answer_for_white_gaussian_latents() -> None:
    params = init_params(SPEC, torch.Generator().manual_seed(0))
    assert {name: tuple(t.shape) for name, t in params.items()} == SPEC.shapes()
    assert velocity(SPEC, params, *inputs()).abs().max() == 0
    again = init_params(SPEC, torch.Generator().manual_seed(0))
    assert all(torch.equal(params[name], again[name]) for name in params)


def test_it_is_told_the_noise_level_and_the_class() -> None:
    params, (noisy, levels, classes) = drawn(), inputs()
    before = velocity(SPEC, params, noisy, levels, classes)
    other_level = velocity(SPEC, params, noisy, levels + torch.tensor([1, 0, 0, 0]), classes)
    other_class = velocity(SPEC, params, noisy, levels, (classes + torch.tensor([0, 1, 0, 0])) % 3)
    for changed, row in ((other_level, 0), (other_class, 1)):
        differs = (changed != before).any(1)
        assert differs.tolist() == [number == row for number in range(4)]


def test_its_gradient_reaches_every_parameter() -> None:
    params = {name: t.requires_grad_() for name, t in drawn().items()}
    velocity(SPEC, params, *inputs()).square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in params.values())
