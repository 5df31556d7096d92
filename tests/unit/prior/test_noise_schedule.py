"""The library's diffusion, against Gaussian latents, whose velocity is known: what is drawn has their variances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medfuncta_dist.prior.noise_schedule import LEVELS, NoiseSchedule


def cosine_shares() -> Tensor:
    """ᾱ of each level, from its definition (Nichol and Dhariwal 2021, equation 17)."""

    def share(t: float) -> float:
        return math.cos((t / LEVELS + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = torch.tensor([min(1 - share(t + 1) / share(t), 0.999) for t in range(LEVELS)], dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


def test_noise_and_velocity_are_those_of_the_cosine_schedule() -> None:
    latents, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([0, 1, 500, 999])
    noisy, wanted = NoiseSchedule().noised(latents, noise, levels)
    kept = cosine_shares()[levels][:, None].float()
    torch.testing.assert_close(noisy, kept.sqrt() * latents + (1 - kept).sqrt() * noise, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(wanted, kept.sqrt() * noise - (1 - kept).sqrt() * latents, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 1.5])
def test_gaussian_latents_come_back_with_their_variances(deviation: float) -> None:
    kept = cosine_shares().float()

    def velocity(noisy: Tensor, levels: Tensor) -> Tensor:
        a, b = kept[levels].sqrt()[:, None], (1 - kept[levels]).sqrt()[:, None]
        return a * b * (1 - deviation**2) * noisy / (a**2 * deviation**2 + b**2)

    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    drawn = NoiseSchedule().denoised(noise, velocity)
    assert float(drawn.std() / noise.std()) == pytest.approx(deviation, rel=0.02)
    assert torch.equal(drawn, NoiseSchedule().denoised(noise, velocity))
