from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import pytest

from medfuncta_dist.errors import LimitReachedError
from medfuncta_dist.task_map import Done, Failed, limited, map_here


def two_in_flight(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
    """Takes the next item before the one before it has ended, as Ray's fan-out does."""
    waiting, flying = iter(items), []
    for item in waiting:
        flying.append(item)
        if len(flying) == 2:
            yield Done(flying[0], task(flying.pop(0)))
    for item in flying:
        yield Done(item, task(item))


def reached_after(number: int, done: list[int]) -> Callable[[], LimitReachedError | None]:
    return lambda: LimitReachedError(f"{len(done)} are done") if len(done) >= number else None


@pytest.mark.parametrize(("fan_out", "finished"), [(map_here, [0, 1, 2]), (two_in_flight, [0, 1, 2, 3])])
def test_at_the_limit_no_item_is_begun_and_those_in_flight_are_finished(fan_out: Any, finished: list[int]) -> None:
    done: list[int] = []
    outcomes = limited(fan_out, reached_after(3, done))(done.append, range(10))
    found = [next(outcomes).item for _ in finished]
    with pytest.raises(LimitReachedError, match=f"{len(finished)} are done"):
        next(outcomes)
    assert done == found == finished


def test_beyond_the_limit_nothing_is_begun_and_without_items_nothing_is_wrong() -> None:
    done: list[int] = []
    with pytest.raises(LimitReachedError):
        list(limited(map_here, reached_after(0, done))(done.append, range(3)))
    assert done == []
    assert list(limited(map_here, reached_after(0, done))(done.append, [])) == []


def test_items_that_are_not_all_there_are_taken_one_by_one_until_the_limit() -> None:
    done: list[int] = []
    made: list[int] = []
    items = (made.append(number) or number for number in range(10))
    with pytest.raises(LimitReachedError, match="3 are done"):
        list(limited(map_here, reached_after(3, done))(done.append, items))
    assert (done, made) == ([0, 1, 2], [0, 1, 2, 3])
    assert list(limited(map_here, reached_after(0, done))(done.append, iter(()))) == []


@pytest.mark.parametrize("items", [[5, 6, 7], iter([5, 6, 7])])
def test_the_number_of_items_is_known_where_it_was(items: Any) -> None:
    sized: list[bool] = []

    def count(task: Callable[[Any], Any], within: Any) -> Iterator[Done | Failed]:
        sized.append(isinstance(within, Sized))
        assert not sized[-1] or len(within) == 3
        yield from map_here(task, within)

    assert [outcome.result for outcome in limited(count, lambda: None)(abs, items)] == [5, 6, 7]
    assert sized == [isinstance(items, list)]


def test_within_the_limit_all_is_as_without_one() -> None:
    found = list(limited(map_here, lambda: None)(abs, [-1, 2]))
    assert found == list(map_here(abs, [-1, 2]))
