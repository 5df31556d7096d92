"""Read ahead: one background thread fills a small queue while the consumer computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.1
"""How soon the thread notices that its consumer has left."""


class _End:
    """What ends the queue: the producer's error, or None when it came to its end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int) -> Prefetched[T]:
    """The same items in the same order, at most ``depth`` of them read ahead, from now on.

    An error of ``items`` is raised where its item would have come. Leaving early (``close``, or letting go of it) stops
    the thread before the next item.
    """
    return Prefetched(items, depth)


class Prefetched(Iterator[T]):
    """What a thread reads ahead. Not a generator: that would begin to read when the first item is asked for."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._ready: queue.Queue[T | _End] = queue.Queue(depth)
        self._left = threading.Event()
        # The thread must not hold on to this object, or nobody could let go of it.
        told = (items, self._ready, self._left)
        self._thread = threading.Thread(target=_fill, args=told, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._left.is_set():
            raise StopIteration
        item = self._ready.get()
        if not isinstance(item, _End):
            return item
        self.close()
        raise item.error or StopIteration

    def close(self) -> None:
        """Stop the thread, and wait for its end."""
        self._left.set()
        self._thread.join()

    def leave(self) -> None:
        """Stop the thread before its next item, and do not wait for it: storage may keep it for minutes."""
        self._left.set()
        with suppress(queue.Full):  # whoever waits for an item, in another thread, is told that there will be none
            self._ready.put_nowait(_End(None))

    def __del__(self) -> None:
        self._left.set()


def _fill(items: Iterable[T], ready: queue.Queue[T | _End], left: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(item, ready, left):
                return
    except BaseException as raised:
        error = raised
    _put(_End(error), ready, left)


def _put(item: T | _End, ready: queue.Queue[T | _End], left: threading.Event) -> bool:
    while not left.is_set():
        try:
            ready.put(item, timeout=POLL_S)
        except queue.Full:
            continue
        return True
    return False
