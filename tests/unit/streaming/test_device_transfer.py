"""Batches on the device: the same values, in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfuncta_dist.streaming.device_transfer import on_device
from medfuncta_dist.streaming.stream import Batch


def batches(count: int) -> list[Batch]:
    numbers = np.random.default_rng(0)
    return [Batch(step, 0, [str(step)], numbers.random((3, 4096, 1), dtype=np.float32)) for step in range(count)]


def test_on_the_cpu_nothing_is_copied() -> None:
    given = batches(3)
    for batch, (same, values) in zip(given, on_device(given, torch.device("cpu")), strict=True):
        assert same is batch
        assert np.shares_memory(values.numpy(), batch.values)


@pytest.mark.gpu
def test_on_a_gpu_values_arrive_whole_and_in_order() -> None:
    given, device = batches(20), torch.device("cuda", 0)
    busy = torch.randn(2048, 2048, device=device)
    for batch, (same, values) in zip(given, on_device(given, device), strict=True):
        busy = (busy @ busy).clamp(-1, 1)
        assert same is batch
        assert values.device == device
        np.testing.assert_array_equal((values * 1).cpu().numpy(), batch.values)
