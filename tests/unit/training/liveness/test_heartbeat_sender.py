from __future__ import annotations

import threading
import time

import pytest

from medfuncta_dist.training.liveness.heartbeat import Beat
from medfuncta_dist.training.liveness.heartbeat_sender import Pulse

FIRST = Beat("1", 2, "node", 7, 0, "starting", 0, 0, waits=False, patient=True)


def until(heard: list[Beat], doing: str, patience_s: float = 10) -> Beat:
    deadline = time.monotonic() + patience_s
    while not any(beat.doing == doing for beat in heard):
        assert time.monotonic() < deadline, f"never heard of {doing}"
        time.sleep(0.01)
    return next(beat for beat in heard if beat.doing == doing)


def test_what_a_rank_does_is_said_while_it_does_it() -> None:
    heard: list[Beat] = []
    with Pulse(heard.append, FIRST, timeout=0.08) as pulse:
        assert until(heard, "starting") == FIRST
        pulse.at("summing the losses", 4, waits=True)
        word = until(heard, "summing the losses")
        assert (word.rank, word.step, word.moves, word.waits, word.patient) == (2, 4, 1, True, True)
        pulse.warm()
        pulse.at("reading scans", 5)
        assert not until(heard, "reading scans").patient
        assert pulse.has_been("reading scans")
        assert not pulse.has_been("validating")
        pulse.alive()
        deadline = time.monotonic() + 10
        while heard[-1].signs != 1:
            assert time.monotonic() < deadline
    time.sleep(0.05)
    said = len(heard)
    time.sleep(0.1)
    assert len(heard) == said


@pytest.mark.parametrize(("timeout", "longest"), [(8, 1.0), (600, 10.0)])
def test_words_are_rare_enough_for_a_thousand_ranks_and_frequent_enough_for_the_timeout(
    timeout: float, longest: float
) -> None:
    assert Pulse(lambda beat: None, FIRST, timeout).every_s == longest


def test_the_first_word_comes_at_once() -> None:
    heard: list[Beat] = []
    with Pulse(heard.append, FIRST, timeout=80.0) as pulse:
        assert pulse.every_s == 10
        assert until(heard, "starting") == FIRST


def test_nothing_is_said_before_its_block_and_no_thread_is_left_after_it() -> None:
    heard: list[Beat] = []
    pulse = Pulse(heard.append, FIRST, timeout=0.08)
    time.sleep(0.05)
    assert heard == []
    with pytest.raises(AssertionError, match="never heard of what"), pulse:
        until(heard, "what it never does", patience_s=0.1)
    assert "pulse" not in {thread.name for thread in threading.enumerate()}
