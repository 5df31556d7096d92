from __future__ import annotations

import math

import pytest
import torch

from medfuncta_dist.meta.losses import mse, psnr


def test_mse_is_the_mean_over_points_and_channels_of_each_scan() -> None:
    targets = torch.zeros(2, 3, 2)
    values = targets.clone()
    values[1, 0, 1] = 0.6
    assert mse(values, targets).tolist() == pytest.approx([0.0, 0.36 / 6])


def test_psnr_has_data_range_one_and_clamps_values() -> None:
    targets = torch.ones(4, 5, 1)
    values = torch.stack([torch.full((5, 1), v) for v in (0.9, 1.7, 1.0, math.nan)])
    decibels = psnr(values, targets)
    assert decibels[:3].tolist() == pytest.approx([20.0, 100.0, 100.0], abs=1e-4)
    assert torch.isnan(decibels[3])
