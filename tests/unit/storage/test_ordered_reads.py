from __future__ import annotations

import threading
import time

import pytest

from medfuncta_dist.storage.ordered_reads import read_in_order


def test_results_come_in_order() -> None:
    def late_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    assert list(read_in_order(late_first, range(21), 4)) == [n * n for n in range(21)]
    assert list(read_in_order(late_first, [], 4)) == []


def test_a_slow_consumer_has_few_results_waiting() -> None:
    done, lock = [0], threading.Lock()

    def work(number: int) -> int:
        with lock:
            done[0] += 1
        return number

    for taken, _ in enumerate(read_in_order(work, range(200), 3), 1):
        time.sleep(0.001)
        assert done[0] - taken <= 2 * 3


def test_an_error_is_raised_in_its_place_and_the_rest_is_not_begun() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise ValueError("the fifth")
        return number

    found = read_in_order(work, range(1000), 2)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the fifth"):
        next(found)
    assert len(begun) <= 10
