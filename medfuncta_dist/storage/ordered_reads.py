"""Several reads at a time, in order, with few results waiting: what is read may be larger than memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_in_order(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """``work`` of each item, in their order, in ``at_once`` threads.

    Twice as many results exist at most, where ``Executor.map`` starts all of them: a consumer that is slower than the
    threads would have every result in memory. An error of ``work`` is raised in place of its result.
    """
    coming: deque[Future[R]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) == 2 * at_once:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for one in coming:
                one.cancel()
