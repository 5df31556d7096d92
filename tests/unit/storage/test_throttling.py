"""64 fit tasks and 32 training ranks on a store that refuses what is beyond its rate: no storm, and all of them finish.

The product's retries and pace, on a virtual clock (throttling_store.py).
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from medfuncta_dist.errors import DeadlineError
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.storage.throttling_store import Cluster, busiest

FIT_TASKS, RANKS = 64, 32
SHARDS = 6
READS, WRITES = 5, 2
"""Of a fitted shard (tests/integration/test_requests.py)."""
MOST_SENT = 1.5
"""Requests sent for each that is needed."""
START_S = {None: 10.0, 1: 0.5, 5: 0.5}
"""After it each process has found out that there is a limit: by Retry-After, with its first answer."""


def fit_task(store: ObjectStore) -> None:
    """Fits shard after shard."""
    for _ in range(SHARDS):
        for _ in range(READS):
            store.read("shard", limit=1)
        for _ in range(WRITES):
            store.write("part", b"")


def rank_thread(store: ObjectStore) -> None:
    """One of two threads of a rank that fetch shards ahead: a tar and its index each."""
    for _ in range(2 * SHARDS):
        store.read("shard", limit=1)
        store.read("index", limit=1)


NEEDED = FIT_TASKS * SHARDS * (READS + WRITES) + RANKS * 2 * 2 * SHARDS * 2


def started(rate: float, **store: Any) -> Cluster:
    random.seed(1)
    cluster = Cluster(rate, **store)
    for _ in range(FIT_TASKS):
        cluster.add_process([fit_task])
    for _ in range(RANKS):
        cluster.add_process([rank_thread] * 2)
    return cluster


@pytest.mark.parametrize("rate", [20, 100, 300])
def test_few_requests_are_sent_in_vain_and_all_finish(rate: int) -> None:
    cluster = started(rate)
    cluster.run(until=20 * NEEDED / rate)
    assert len(cluster.store.served) == NEEDED
    assert len(cluster.store.arrivals) <= MOST_SENT * NEEDED
    # Nine tenths are served in about the time in which the store can: what is held back is what it would refuse.
    nine_tenths = cluster.store.served[int(0.9 * NEEDED)]
    assert nine_tenths <= 2 * 0.9 * NEEDED / rate


@pytest.mark.parametrize("retry_after_s", [None, 1, 5])
def test_processes_that_were_refused_together_do_not_return_together(retry_after_s: int | None) -> None:
    """Without a random part, 128 threads come back in the same instant, 5 s after they were told to."""
    cluster = started(100, retry_after_s=retry_after_s)
    cluster.run(until=2000)
    later = [time for time in cluster.store.arrivals if time > START_S[retry_after_s]]
    assert busiest(later) <= 3.5 * cluster.store.rate
    assert busiest(later, 0.1) <= 0.75 * cluster.store.rate


@pytest.mark.parametrize("retry_after_s", [None, 10])
def test_half_a_minute_without_service_is_waited_for_and_not_followed_by_a_wave(retry_after_s: int | None) -> None:
    cluster = started(100, retry_after_s=retry_after_s, outage=(15.0, 45.0))
    cluster.run(until=2000)
    assert len(cluster.store.served) == NEEDED
    assert len(cluster.store.arrivals) <= MOST_SENT * NEEDED
    assert len([time for time in cluster.store.refused if 20 < time < 45]) <= 5 * (FIT_TASKS + 2 * RANKS)
    assert busiest([time for time in cluster.store.arrivals if time > 45]) <= 2 * cluster.store.rate


def test_many_threads_that_wait_for_their_own_process_do_not_run_out_of_time() -> None:
    """48 threads on one request every three seconds: the last one waits for longer than a request may take."""
    random.seed(1)
    cluster = Cluster(1 / 3)
    cluster.add_process([lambda store: store.read("shard", limit=1) and None] * 48)
    cluster.run(until=2000)
    assert len(cluster.store.served) == 48
    assert cluster.store.served[-1] > ObjectStore("s3://bucket/root").deadline_s


def test_a_process_is_at_its_pace_again_soon_after_a_long_outage() -> None:
    """Turns that its threads took while there was one request in ten seconds do not hold them back afterwards."""
    random.seed(1)
    cluster = Cluster(100, outage=(0.5, 120.5))
    cluster.add_process([lambda store: [store.read("shard", limit=1) for _ in range(40)] and None] * 32)
    cluster.run(until=2000)
    assert len(cluster.store.served) == 40 * 32
    assert cluster.store.served[-1] < 180


def test_a_request_with_a_short_deadline_ends_by_then_however_slow_the_process_is() -> None:
    """A lease's heartbeat proves nothing when it comes late."""

    def heartbeat(store: ObjectStore) -> None:
        cluster.sleep(30)
        began, store.deadline_s = cluster.clock.now, 20.0
        with pytest.raises(DeadlineError):
            store.write("lease", b"")
        ended.append(cluster.clock.now - began)

    ended: list[float] = []
    random.seed(1)
    cluster = Cluster(100, outage=(0.5, 90.0))
    cluster.add_process([fit_task] * 31 + [heartbeat])
    cluster.run(until=2000)
    assert ended
    assert ended[0] <= 20


def test_a_process_that_is_alone_gets_all_that_the_store_has() -> None:
    """One refusal now and then does not hold a busy process back for long."""

    def busy(store: ObjectStore) -> None:
        for _ in range(1000):
            store.read("shard", limit=1)

    random.seed(1)
    cluster = Cluster(100)
    cluster.add_process([busy] * 8)
    cluster.run(until=1000)
    assert len(cluster.store.arrivals) <= MOST_SENT * 8000
    assert cluster.store.served[-1] <= 2 * 8000 / 100


def test_nothing_waits_on_a_store_that_refuses_nothing() -> None:
    cluster = Cluster(10_000)
    cluster.add_process([fit_task])
    cluster.run(until=100)
    assert not cluster.store.refused
    assert cluster.clock.now < SHARDS * (READS + WRITES) * 0.07
