"""Batches and results on their way: the same values in the same order, at most two at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.fitting.batch_transfer import Returning, Sender, one_behind
from medfuncta_dist.streaming.prefetch import one_ahead

CPU = torch.device("cpu")


@given(st.lists(st.integers(), max_size=20))
def test_one_behind_gives_the_same_items_each_when_the_next_has_been_made(items: list[int]) -> None:
    made = 0

    def counted() -> Iterator[int]:
        nonlocal made
        for item in items:
            made += 1
            yield item

    for used, item in enumerate(one_behind(counted())):
        assert item == items[used]
        assert made == min(used + 2, len(items))
    assert made == len(items)


def test_on_the_cpu_nothing_is_copied_on_either_way() -> None:
    values = np.random.default_rng(0).random((3, 5, 1), dtype=np.float32)
    there = Sender.to(CPU).send(values).take()
    (back,) = Returning([there]).wait()
    assert np.shares_memory(there.numpy(), values)
    assert np.shares_memory(back, values)


@pytest.mark.gpu
def test_on_a_gpu_values_arrive_whole_and_in_order_and_results_come_back_while_it_computes() -> None:
    numbers = np.random.default_rng(0)
    given_values = [numbers.random((3, 4096, 1), dtype=np.float32) for _ in range(20)]
    sender = Sender.to(torch.device("cuda"))
    busy = torch.randn(2048, 2048, device="cuda")
    threads = set()

    def sent() -> Iterator[tuple[np.ndarray, object]]:
        for values in given_values:
            threads.add(threading.current_thread().name)
            yield values, sender.send(values)

    def launched() -> Iterator[tuple[np.ndarray, Returning]]:
        nonlocal busy
        for values, arriving in one_ahead(sent()):
            busy = (busy @ busy).clamp(-1, 1)
            yield values, Returning([arriving.take() * 2, busy[:1]])

    for values, coming in one_behind(launched()):
        doubled, _ = coming.wait()
        np.testing.assert_array_equal(doubled, 2 * values)
    assert threading.current_thread().name not in threads
