from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.training.liveness.heartbeat import PATIENT_S, PATIENT_SILENCE_S, Beat, Heartbeats

TIMEOUT = 8.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def beat(rank: int, moves: int = 1, *, waits: bool = False, patient: bool = False, attempt: str = "1") -> Beat:
    return Beat(attempt, rank, f"node-{rank}", 100 + rank, 41, "exchanging gradients", moves, 0, waits, patient)


def later(clock: Clock, heartbeats: Heartbeats, seconds: int, *beats: Beat) -> None:
    """These ranks go on saying the same, every second."""
    for _ in range(seconds):
        clock.now += 1
        for word in beats:
            heartbeats.hear(word)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heartbeats(clock: Clock) -> Heartbeats:
    return Heartbeats(clock)


def named(heartbeats: Heartbeats) -> list[int]:
    return [hung.beat.rank for hung in heartbeats.hung(TIMEOUT)]


def test_a_silent_rank_is_named_and_not_those_that_wait_for_it(clock: Clock, heartbeats: Heartbeats) -> None:
    words = [beat(rank, waits=rank != 1) for rank in range(4)]
    later(clock, heartbeats, 1, *words)
    later(clock, heartbeats, 7, *(word for word in words if word.rank != 1))
    assert named(heartbeats) == []
    later(clock, heartbeats, 1, *(word for word in words if word.rank != 1))
    [hung] = heartbeats.hung(TIMEOUT)
    assert (hung.beat.rank, hung.beat.node, hung.beat.pid) == (1, "node-1", 101)
    assert hung.why == "silent for 8 s, last word: exchanging gradients (outer step 42)"


def test_a_rank_stopped_in_its_first_step_is_named_and_not_one_that_is_beyond_it(
    clock: Clock, heartbeats: Heartbeats
) -> None:
    later(clock, heartbeats, 1, beat(0, 3, patient=True), beat(1, 9, waits=True))
    later(clock, heartbeats, 8, beat(1, 9, waits=True))
    assert named(heartbeats) == [0]


def test_who_waits_for_one_that_may_be_slow_is_not_named(clock: Clock, heartbeats: Heartbeats) -> None:
    later(clock, heartbeats, 10, beat(0, 8, patient=True), beat(1, 9, waits=True))
    assert named(heartbeats) == []


def test_who_waits_for_one_that_shows_signs_of_life_is_not_named(clock: Clock, heartbeats: Heartbeats) -> None:
    """Rank 0 waits for a storage that hangs, the others for rank 0; then all go on, rank 0 says so first."""
    others = [beat(rank, 9, waits=True) for rank in (1, 2, 3)]
    for signs in range(30):
        later(clock, heartbeats, 1, replace(beat(0, 8), signs=signs), *others)
        assert named(heartbeats) == []
    heartbeats.hear(beat(0, 20))
    assert named(heartbeats) == []
    later(clock, heartbeats, 9, beat(0, 20), *others)
    assert named(heartbeats) == [0]


def test_words_may_be_late_while_all_wait_for_a_storage(clock: Clock, heartbeats: Heartbeats) -> None:
    """A rank that still moves has the whole time before it counts as silent."""
    for signs in range(12):
        later(clock, heartbeats, 1, replace(beat(0, 8), signs=signs), beat(1, 9, waits=True))
    later(clock, heartbeats, 6, beat(1, 9, waits=True))
    assert named(heartbeats) == []
    later(clock, heartbeats, 2, beat(1, 9, waits=True))
    assert named(heartbeats) == [0]


def test_a_rank_busy_with_itself_is_named_before_those_that_wait(clock: Clock, heartbeats: Heartbeats) -> None:
    later(clock, heartbeats, 10, beat(0, waits=True), beat(1, waits=False), beat(2, waits=True))
    [hung] = heartbeats.hung(TIMEOUT)
    assert hung.beat.rank == 1
    assert hung.why == "exchanging gradients (outer step 42) for 9 s"


def test_where_all_wait_for_each_other_those_furthest_behind_are_named(clock: Clock, heartbeats: Heartbeats) -> None:
    later(clock, heartbeats, 10, beat(0, 8, waits=True), beat(1, 7, waits=True), beat(2, 8, waits=True))
    assert named(heartbeats) == [1]


@given(st.lists(st.integers(0, 3), min_size=5, max_size=200))
def test_nobody_who_moves_within_the_time_is_named(order: list[int]) -> None:
    clock = Clock()
    heartbeats, moves = Heartbeats(clock), [0, 0, 0, 0]
    for first in order:
        for rank in range(4):
            moves[rank] += 1
            heartbeats.hear(beat(rank, moves[rank], waits=rank != first))
        clock.now += TIMEOUT - 0.01
        assert named(heartbeats) == []


def test_a_sign_of_life_is_enough_for_what_takes_long(clock: Clock, heartbeats: Heartbeats) -> None:
    for signs in range(30):
        later(clock, heartbeats, 1, replace(beat(0), signs=signs))
        assert named(heartbeats) == []


def test_start_up_has_half_an_hour_but_never_in_silence(clock: Clock, heartbeats: Heartbeats) -> None:
    patient = [beat(0, patient=True), beat(1, patient=True)]
    later(clock, heartbeats, int(PATIENT_S), *patient)
    assert named(heartbeats) == []
    later(clock, heartbeats, int(PATIENT_SILENCE_S) + 1, patient[0])
    assert named(heartbeats)[-1] == 1


def test_each_attempt_begins_anew(clock: Clock, heartbeats: Heartbeats) -> None:
    later(clock, heartbeats, 1, *(beat(rank) for rank in range(4)))
    later(clock, heartbeats, 20, beat(0, attempt="2"))
    heartbeats.hear(beat(3, attempt="1"))
    assert named(heartbeats) == [0]
    later(clock, heartbeats, 1, beat(0, attempt="3"), beat(1, attempt="3"))
    assert named(heartbeats) == []


def test_an_attempt_that_is_over_is_not_judged(clock: Clock, heartbeats: Heartbeats) -> None:
    heartbeats.hear(beat(0))
    heartbeats.done()
    clock.now += 1e6
    assert named(heartbeats) == []
    heartbeats.hear(replace(beat(0), attempt="2"))
    clock.now += TIMEOUT
    assert named(heartbeats) == [0]
