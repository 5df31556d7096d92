"""Read ahead: one background thread fills a small queue while the consumer computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.1
"""How soon the thread notices that its consumer has left."""


class _End:
    """What ends the queue: the producer's error, or None when it came to its end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, at most ``depth`` of them read ahead.

    An error of ``items`` is raised where its item would have come. Leaving early (``close``, ``break``) stops the
    thread before the next item.
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    left = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, left), name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        left.set()
        thread.join()


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
