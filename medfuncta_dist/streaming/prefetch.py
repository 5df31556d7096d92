"""Read ahead: one background thread makes the next items while the consumer computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.1
"""How often the thread checks whether its consumer has stopped."""


class _End:
    """The last entry of the queue: the producer's error, or None if it finished."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int) -> Prefetched[T]:
    """The same items in the same order, at most ``depth`` of them read ahead, from now on.

    An error of ``items`` is raised in place of the item. ``close``, or deleting the result, stops the thread before the
    next item.
    """
    return Prefetched(items, depth)


def one_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items in the same order; each is made in a background thread while the one before it is in use.

    At most two items exist at a time: for items that are large. An error of ``items`` is raised in place of the item.
    ``close`` waits until no item is being made, so that what ``items`` reads from can be closed next.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "one-ahead") as maker:
        coming = maker.submit(_next, source)
        while not isinstance(item := coming.result(), _End):
            coming = maker.submit(_next, source)
            yield item


def _next(source: Iterator[T]) -> T | _End:
    return next(source, _End(None))


class Prefetched(Iterator[T]):
    """Items that a thread reads ahead. Not a generator, which would start to read only at the first ``next``."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._ready: queue.Queue[T | _End] = queue.Queue(depth)
        self._stopped = threading.Event()
        # The thread must not refer to this object, which could then never be garbage collected.
        arguments = (items, self._ready, self._stopped)
        self._thread = threading.Thread(target=_fill, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        item = self._ready.get()
        if not isinstance(item, _End):
            return item
        self.close()
        raise item.error or StopIteration

    def close(self) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stopped.set()
        self._thread.join()

    def leave(self) -> None:
        """Stop the thread before its next item without waiting for it: storage may block it for minutes."""
        self._stopped.set()
        with suppress(queue.Full):  # wakes a thread that waits for an item
            self._ready.put_nowait(_End(None))

    def __del__(self) -> None:
        self._stopped.set()


def _fill(items: Iterable[T], ready: queue.Queue[T | _End], stopped: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(item, ready, stopped):
                return
    except BaseException as raised:
        error = raised
    _put(_End(error), ready, stopped)


def _put(item: T | _End, ready: queue.Queue[T | _End], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(item, timeout=POLL_S)
        except queue.Full:
            continue
        return True
    return False
