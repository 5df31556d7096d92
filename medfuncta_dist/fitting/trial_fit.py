"""How fast a worker fits: one batch of a run's own scans, network and settings, before its tasks are cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from medfuncta_dist.fitting.fit_task import FitTask, launched, sent_batches, verify_shard
from medfuncta_dist.fitting.task_size import LEAST_SECONDS
from medfuncta_dist.streaming.sample_reader import SampleReader

T = TypeVar("T")


def trial_fit(task: FitTask) -> float:
    """Scans, or patches of them, per second of a worker, from the first units of a shard; nothing is written.
    ``task``: over the whole shard.

    A batch warms up (compiled kernels, the network's Jacobian), the next one is timed. Where the first alone takes as
    long as a task should, as on a CPU with a large network, it decides: what warms up a CPU is seconds at most.
    """
    store, cache = task.worker.open()
    size, shard = min(task.batch, task.work.units), task.work.shard
    with closing(SampleReader(store, [shard], cache)) as reader:
        verify_shard(cache, shard, reader)
        first = _seconds(task, reader, 0)
        if task.worker.device.type == "cpu" and first >= LEAST_SECONDS:
            return size / first
        return size / _seconds(task, reader, size if task.work.units >= 2 * size else 0)


def _seconds(task: FitTask, reader: SampleReader, start: int) -> float:
    """Of one batch from row ``start`` on: a task reads and fits at once, so the slower of the two counts."""
    size = min(task.batch, task.work.units)
    one = replace(task, work=replace(task.work, start=start, stop=start + size))
    sent, reading = _timed(lambda: list(sent_batches(one, reader)))
    _, fitting = _timed(lambda: [coming.wait() for _, coming in launched(one, sent)])
    return max(reading, fitting)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began
