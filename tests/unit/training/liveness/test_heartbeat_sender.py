from __future__ import annotations

import threading
import time

import pytest

from medfuncta_dist.training.liveness.heartbeat import Heartbeat
from medfuncta_dist.training.liveness.heartbeat_sender import HeartbeatSender

FIRST = Heartbeat("1", 2, "node", 7, 0, "starting", 0, 0, waits_for_others=False, may_be_slow=True)


def until(heard: list[Heartbeat], phase: str, patience_s: float = 10) -> Heartbeat:
    deadline = time.monotonic() + patience_s
    while not any(beat.phase == phase for beat in heard):
        assert time.monotonic() < deadline, f"never heard of {phase}"
        time.sleep(0.01)
    return next(beat for beat in heard if beat.phase == phase)


def test_what_a_rank_does_is_said_while_it_does_it() -> None:
    heard: list[Heartbeat] = []
    with HeartbeatSender(heard.append, FIRST, timeout=0.08) as heartbeat:
        assert until(heard, "starting") == FIRST
        heartbeat.set_phase("summing the losses", 4, waits_for_others=True)
        word = until(heard, "summing the losses")
        assert (word.rank, word.step, word.phases_begun, word.waits_for_others, word.may_be_slow) == (
            2,
            4,
            1,
            True,
            True,
        )
        heartbeat.end_warm_up()
        heartbeat.set_phase("reading scans", 5)
        assert not until(heard, "reading scans").may_be_slow
        assert heartbeat.has_been_in("reading scans")
        assert not heartbeat.has_been_in("validating")
        heartbeat.signal_alive()
        deadline = time.monotonic() + 10
        while heard[-1].life_signs != 1:
            assert time.monotonic() < deadline
    time.sleep(0.05)
    said = len(heard)
    time.sleep(0.1)
    assert len(heard) == said


@pytest.mark.parametrize(("timeout", "longest"), [(8, 1.0), (600, 10.0)])
def test_words_are_rare_enough_for_a_thousand_ranks_and_frequent_enough_for_the_timeout(
    timeout: float, longest: float
) -> None:
    assert HeartbeatSender(lambda beat: None, FIRST, timeout).interval_s == longest


def test_the_first_word_comes_at_once() -> None:
    heard: list[Heartbeat] = []
    with HeartbeatSender(heard.append, FIRST, timeout=80.0) as heartbeat:
        assert heartbeat.interval_s == 10
        assert until(heard, "starting") == FIRST


def test_nothing_is_said_before_its_block_and_no_thread_is_left_after_it() -> None:
    heard: list[Heartbeat] = []
    heartbeat = HeartbeatSender(heard.append, FIRST, timeout=0.08)
    time.sleep(0.05)
    assert heard == []
    with pytest.raises(AssertionError, match="never heard of what"), heartbeat:
        until(heard, "what it never does", patience_s=0.1)
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
