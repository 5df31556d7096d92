from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.training.liveness.heartbeat import SLOW_PHASE_S, SLOW_PHASE_SILENCE_S, Heartbeat, HeartbeatMonitor

TIMEOUT = 8.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def beat(
    rank: int, phases_begun: int = 1, *, waits_for_others: bool = False, may_be_slow: bool = False, attempt: str = "1"
) -> Heartbeat:
    return Heartbeat(
        attempt,
        rank,
        f"node-{rank}",
        100 + rank,
        41,
        "exchanging gradients",
        phases_begun,
        0,
        waits_for_others,
        may_be_slow,
    )


def later(clock: Clock, heartbeats: HeartbeatMonitor, seconds: int, *beats: Heartbeat) -> None:
    """These ranks go on saying the same, every second."""
    for _ in range(seconds):
        clock.now += 1
        for word in beats:
            heartbeats.record(word)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heartbeats(clock: Clock) -> HeartbeatMonitor:
    return HeartbeatMonitor(clock)


def named(heartbeats: HeartbeatMonitor) -> list[int]:
    return [hung.heartbeat.rank for hung in heartbeats.find_hung(TIMEOUT)]


def test_a_silent_rank_is_named_and_not_those_that_wait_for_it(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    words = [beat(rank, waits_for_others=rank != 1) for rank in range(4)]
    later(clock, heartbeats, 1, *words)
    later(clock, heartbeats, 7, *(word for word in words if word.rank != 1))
    assert named(heartbeats) == []
    later(clock, heartbeats, 1, *(word for word in words if word.rank != 1))
    [hung] = heartbeats.find_hung(TIMEOUT)
    assert (hung.heartbeat.rank, hung.heartbeat.node, hung.heartbeat.pid) == (1, "node-1", 101)
    assert hung.reason == "silent for 8 s, last phase: exchanging gradients (outer step 42)"


def test_a_rank_stopped_in_its_first_step_is_named_and_not_one_that_is_beyond_it(
    clock: Clock, heartbeats: HeartbeatMonitor
) -> None:
    later(clock, heartbeats, 1, beat(0, 3, may_be_slow=True), beat(1, 9, waits_for_others=True))
    later(clock, heartbeats, 8, beat(1, 9, waits_for_others=True))
    assert named(heartbeats) == [0]


def test_who_waits_for_one_that_may_be_slow_is_not_named(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    later(clock, heartbeats, 10, beat(0, 8, may_be_slow=True), beat(1, 9, waits_for_others=True))
    assert named(heartbeats) == []


def test_who_waits_for_one_that_shows_signs_of_life_is_not_named(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    """Rank 0 waits for a storage that hangs, the others for rank 0; then all go on, rank 0 says so first."""
    others = [beat(rank, 9, waits_for_others=True) for rank in (1, 2, 3)]
    for signs in range(30):
        later(clock, heartbeats, 1, replace(beat(0, 8), life_signs=signs), *others)
        assert named(heartbeats) == []
    heartbeats.record(beat(0, 20))
    assert named(heartbeats) == []
    later(clock, heartbeats, 9, beat(0, 20), *others)
    assert named(heartbeats) == [0]


def test_words_may_be_late_while_all_wait_for_a_storage(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    """A rank that still moves has the whole time before it counts as silent."""
    for signs in range(12):
        later(clock, heartbeats, 1, replace(beat(0, 8), life_signs=signs), beat(1, 9, waits_for_others=True))
    later(clock, heartbeats, 6, beat(1, 9, waits_for_others=True))
    assert named(heartbeats) == []
    later(clock, heartbeats, 2, beat(1, 9, waits_for_others=True))
    assert named(heartbeats) == [0]


def test_a_rank_busy_with_itself_is_named_before_those_that_wait(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    later(
        clock,
        heartbeats,
        10,
        beat(0, waits_for_others=True),
        beat(1, waits_for_others=False),
        beat(2, waits_for_others=True),
    )
    [hung] = heartbeats.find_hung(TIMEOUT)
    assert hung.heartbeat.rank == 1
    assert hung.reason == "exchanging gradients (outer step 42) for 9 s"


def test_where_all_wait_for_each_other_those_furthest_behind_are_named(
    clock: Clock, heartbeats: HeartbeatMonitor
) -> None:
    later(
        clock,
        heartbeats,
        10,
        beat(0, 8, waits_for_others=True),
        beat(1, 7, waits_for_others=True),
        beat(2, 8, waits_for_others=True),
    )
    assert named(heartbeats) == [1]


@given(st.lists(st.integers(0, 3), min_size=5, max_size=200))
def test_nobody_who_moves_within_the_time_is_named(order: list[int]) -> None:
    clock = Clock()
    heartbeats, moves = HeartbeatMonitor(clock), [0, 0, 0, 0]
    for first in order:
        for rank in range(4):
            moves[rank] += 1
            heartbeats.record(beat(rank, moves[rank], waits_for_others=rank != first))
        clock.now += TIMEOUT - 0.01
        assert named(heartbeats) == []


def test_a_sign_of_life_is_enough_for_what_takes_long(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    for signs in range(30):
        later(clock, heartbeats, 1, replace(beat(0), life_signs=signs))
        assert named(heartbeats) == []


def test_start_up_has_half_an_hour_but_never_in_silence(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    patient = [beat(0, may_be_slow=True), beat(1, may_be_slow=True)]
    later(clock, heartbeats, int(SLOW_PHASE_S), *patient)
    assert named(heartbeats) == []
    later(clock, heartbeats, int(SLOW_PHASE_SILENCE_S) + 1, patient[0])
    assert named(heartbeats)[-1] == 1


def test_each_attempt_begins_anew(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    later(clock, heartbeats, 1, *(beat(rank) for rank in range(4)))
    later(clock, heartbeats, 20, beat(0, attempt="2"))
    heartbeats.record(beat(3, attempt="1"))
    assert named(heartbeats) == [0]
    later(clock, heartbeats, 1, beat(0, attempt="3"), beat(1, attempt="3"))
    assert named(heartbeats) == []


def test_an_attempt_that_is_over_is_not_judged(clock: Clock, heartbeats: HeartbeatMonitor) -> None:
    heartbeats.record(beat(0))
    heartbeats.end_attempt()
    clock.now += 1e6
    assert named(heartbeats) == []
    heartbeats.record(replace(beat(0), attempt="2"))
    clock.now += TIMEOUT
    assert named(heartbeats) == [0]
