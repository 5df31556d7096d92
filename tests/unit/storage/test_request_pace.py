"""All threads of a process slow down together, and speed up again."""

from __future__ import annotations

import time
from itertools import pairwise

from medfuncta_dist.storage.request_pace import FIRST_GAP_S, JITTER, LONGEST_GAP_S, SLOWER, RequestPace


def seconds_for(pace: RequestPace, n: int) -> float:
    began = time.monotonic()
    for _ in range(n):
        pace.wait(60)
    return time.monotonic() - began


def test_nothing_waits_while_nothing_is_refused() -> None:
    pace = RequestPace()
    pace.speed_up(time.monotonic())
    assert seconds_for(pace, 1000) < 0.1


def test_requests_are_apart_after_a_refusal_and_close_up_again() -> None:
    pace = RequestPace()
    for _ in range(2):
        pace.slow_down(time.monotonic())
    shortest = FIRST_GAP_S * SLOWER * (1 - JITTER)
    assert seconds_for(pace, 4) >= 3 * shortest * 0.99
    for _ in range(30):
        pace.speed_up(time.monotonic())
    pace.wait(60)  # the one that was due while requests were still apart
    assert seconds_for(pace, 1000) < 0.1


def test_one_refusal_in_ten_does_not_slow_a_process_for_long() -> None:
    pace = RequestPace()
    for _ in range(20):
        pace.slow_down(time.monotonic())
        for _ in range(9):
            pace.speed_up(time.monotonic())
    assert pace._gap <= FIRST_GAP_S


def test_a_pause_holds_for_every_thread_and_ends_with_the_time_that_is_left() -> None:
    pace = RequestPace()
    pace.slow_down(time.monotonic(), pause_s=0.3)
    assert 0.3 <= seconds_for(pace, 1) < 0.9
    pace.slow_down(time.monotonic(), pause_s=30)
    began = time.monotonic()
    pace.wait(0.1)
    assert time.monotonic() - began < 1


def test_the_gap_has_an_end() -> None:
    pace = RequestPace()
    for _ in range(100):
        pace.slow_down(time.monotonic())
    assert pace._gap == LONGEST_GAP_S


def test_refusals_of_requests_sent_together_slow_a_process_down_once() -> None:
    pace = RequestPace()
    together = [pace.wait(60) for _ in range(50)]
    for sent in together:
        pace.slow_down(sent)
    assert pace._gap == FIRST_GAP_S


def test_processes_that_were_told_to_come_back_later_come_back_apart() -> None:
    paces = [RequestPace() for _ in range(100)]
    for pace in paces:
        pace.slow_down(time.monotonic(), pause_s=10)
    back = sorted(pace._next - time.monotonic() for pace in paces)
    assert back[0] >= 9.9
    assert back[-1] <= 20
    assert max(later - earlier for earlier, later in pairwise(back)) < 3
    assert back[90] - back[10] > 5
