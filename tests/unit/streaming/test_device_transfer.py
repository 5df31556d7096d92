"""Batches on the device: the same values, in order, and what is drawn for them, by another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from medfuncta_dist.streaming.device_transfer import Contexts, on_device
from medfuncta_dist.streaming.stream import Batch


def batches(count: int) -> list[Batch]:
    numbers = np.random.default_rng(0)
    return [Batch(step, 0, [str(step)], numbers.random((3, 4096, 1), dtype=np.float32)) for step in range(count)]


def draw(values: Tensor, step: int) -> Contexts:
    """Three sets of 64 points, other ones at each step."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randperm(values.shape[1], generator=generator)[:64] for _ in range(3)]


def test_on_the_cpu_nothing_is_copied() -> None:
    given = batches(3)
    for batch, placed in zip(given, on_device(given, torch.device("cpu")), strict=True):
        assert placed.batch is batch
        assert np.shares_memory(placed.targets.numpy(), batch.values)
        assert len(placed.contexts) == 0


def test_context_sets_are_drawn_ahead_by_the_thread_that_fetches() -> None:
    drawn: list[tuple[int, str]] = []
    first_three = threading.Event()

    def watched(values: Tensor, step: int) -> Contexts:
        drawn.append((step, threading.current_thread().name))
        if len(drawn) == 3:
            first_three.set()
        return draw(values, step)

    given = batches(5)
    placed = on_device(given, torch.device("cpu"), watched)
    first = next(placed)
    assert first_three.wait(10), "two more are made while the first is in use"
    for batch, found in zip(given, [first, *placed], strict=True):
        assert all(torch.equal(*pair) for pair in zip(found.contexts, draw(found.targets, batch.step), strict=True))
    assert drawn == [(step, "prefetch") for step in range(5)]


def test_whoever_leaves_does_not_wait_for_a_batch_that_storage_keeps_back() -> None:
    answers = threading.Event()

    def slow() -> Iterator[Batch]:
        yield from batches(1)
        answers.wait(60)
        yield from batches(1)

    placed = on_device(slow(), torch.device("cpu"))
    next(placed)
    began = time.monotonic()
    placed.close()
    assert time.monotonic() - began < 10
    answers.set()


@pytest.mark.gpu
def test_on_a_gpu_values_and_context_sets_arrive_whole_and_in_order() -> None:
    given, device = batches(20), torch.device("cuda", 0)
    busy = torch.randn(2048, 2048, device=device)
    for batch, placed in zip(given, on_device(given, device, draw), strict=True):
        busy = (busy @ busy).clamp(-1, 1)
        assert placed.batch is batch
        assert placed.targets.device == device
        np.testing.assert_array_equal((placed.targets * 1).cpu().numpy(), batch.values)
        for context, expected in zip(placed.contexts, draw(torch.from_numpy(batch.values), batch.step), strict=True):
            assert context.device == device
            assert torch.equal((context * 1).cpu(), expected)
