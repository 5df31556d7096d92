"""Reading ahead changes when items are read, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.streaming.prefetch import one_ahead, prefetch


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_same_items_same_order(items: list[int], depth: int) -> None:
    assert list(prefetch(items, depth)) == items
    deadline = time.monotonic() + 10  # a thread that has given its last item may still be ending
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads() == 0


def test_it_reads_ahead_but_not_too_far() -> None:
    read = []

    def items() -> Iterator[int]:
        for n in range(100):
            read.append(n)
            yield n

    stream = prefetch(items(), 3)
    time.sleep(0.3)
    assert len(read) == 4  # three waiting, one in the thread's hand, before anyone has asked
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(read) == 5
    stream.close()
    assert threads() == 0
    assert len(read) == 5


def test_letting_go_of_it_ends_the_thread() -> None:
    prefetch(iter(int, 1), 3)
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == 0


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    stream, seen = prefetch(items(), 8), []
    with pytest.raises(ValueError, match="third"):
        seen.extend(iter(lambda: next(stream), None))
    assert threads() == 0


def test_items_before_an_error_are_not_lost() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("second")

    stream = prefetch(items(), 8)
    assert next(stream) == 1
    with pytest.raises(KeyError):
        next(stream)


def test_reading_and_computing_overlap() -> None:
    def slow() -> Iterator[int]:
        for n in range(10):
            time.sleep(0.05)
            yield n

    began = time.monotonic()
    for _ in prefetch(slow(), 2):
        time.sleep(0.05)
    assert time.monotonic() - began < 0.9  # one after the other: 1.0 s and more


def test_a_stream_that_is_left_stops_its_thread_and_wakes_who_waits_for_it() -> None:
    goes_on = threading.Event()

    def slow() -> Iterator[int]:
        goes_on.wait(10)
        yield 1

    taken: list[int] = []
    stream = prefetch(slow(), 1)
    waiting = threading.Thread(target=lambda: taken.extend(stream))
    waiting.start()
    began = time.monotonic()
    stream.leave()
    assert time.monotonic() - began < 1  # storage may keep the thread: nobody waits for that
    goes_on.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert taken == []


def makers() -> int:
    return sum(thread.name.startswith("one-ahead") for thread in threading.enumerate())


@given(st.lists(st.integers() | st.none(), max_size=20))
def test_one_ahead_gives_the_same_items_in_the_same_order(items: list[int | None]) -> None:
    assert list(one_ahead(items)) == items
    assert makers() == 0


def test_one_ahead_makes_one_item_while_another_is_in_use() -> None:
    made = []

    def items() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    stream = one_ahead(items())
    for n in range(3):
        assert next(stream) == n
        time.sleep(0.1)
        assert len(made) == n + 2
    stream.close()
    assert makers() == 0
    assert len(made) == 4


def test_one_ahead_raises_an_error_in_its_place() -> None:
    wrong = ValueError("third")

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise wrong

    stream, seen = one_ahead(items()), []
    with pytest.raises(ValueError, match="third") as caught:
        seen.extend(iter(lambda: next(stream), None))
    assert caught.value is wrong
    assert makers() == 0
    stream = one_ahead(items())
    assert [next(stream), next(stream)] == [1, 2]
    stream.close()


def test_closing_one_ahead_waits_for_the_item_that_is_being_made() -> None:
    done = []

    def items() -> Iterator[int]:
        yield 1
        time.sleep(0.2)
        done.append(2)
        yield 2

    stream = one_ahead(items())
    assert next(stream) == 1
    stream.close()
    assert done == [2]


def test_one_ahead_overlaps_making_and_use() -> None:
    def slow() -> Iterator[int]:
        for n in range(10):
            time.sleep(0.05)
            yield n

    began = time.monotonic()
    for _ in one_ahead(slow()):
        time.sleep(0.05)
    assert time.monotonic() - began < 0.9  # one after the other: 1.0 s and more
