"""How fast this process sends requests: all its threads slow down together while the store answers "too many requests".

The first such answer (503 SlowDown and similar) puts a gap between two requests; each one after that doubles it, and
each success shortens it by a tenth. So about one request in eight is refused while a store is at its limit, and the gap
closes when it no longer is. Gaps and pauses are partly random: many processes that a store refused at the same moment
must not return at the same moment.

botocore's mode ``adaptive`` does the like for requests through its own clients, which most of ours are not (s3_get.py).
"""

from __future__ import annotations

import random
import threading
import time

FIRST_GAP_S, LONGEST_GAP_S = 0.1, 10.0
"""The longest lets a hundred processes share a store that serves ten requests per second."""
SLOWER, FASTER = 2.0, 0.9
JITTER = 0.5
"""A gap is up to this share longer or shorter."""
LONGEST_PAUSE_S = 60.0
"""The longest ``Retry-After`` that is followed: a store that asks for more is misconfigured."""


class RequestPace:
    """The gap between two requests, shared by all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gap, self._next = 0.0, 0.0
        self._slowed = float("-inf")
        """When it slowed down last."""

    def wait(self, most_s: float) -> float:
        """Wait until this thread may send its request, at most ``most_s`` seconds; not at all without refusals.

        Returns the moment at which it sends, for ``slow_down``.
        """
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            if start - now <= most_s:  # else it goes before its turn, and takes no other's
                self._next = start + self._gap * random.uniform(1 - JITTER, 1 + JITTER)
        if start > now:
            time.sleep(max(0.0, min(start - now, most_s)))
        return time.monotonic()

    def slow_down(self, sent: float, pause_s: float = 0.0) -> None:
        """The store refused a request, sent at the moment ``sent``, as one too many.

        ``pause_s``: seconds without any request that it asked for; the pause lasts up to twice as long. Answers to
        requests that were under way when the pace changed say nothing about the new one, and do not change it again.
        """
        with self._lock:
            now = time.monotonic()
            if sent >= self._slowed:
                self._gap = min(max(self._gap * SLOWER, FIRST_GAP_S), LONGEST_GAP_S)
                self._slowed = now
            pause = max(self._gap * random.random(), min(pause_s, LONGEST_PAUSE_S) * random.uniform(1, 2))
            self._next = max(self._next, now + pause)

    def speed_up(self, sent: float) -> None:
        """The store answered a request, sent at the moment ``sent``."""
        if self._gap:
            with self._lock:
                self._gap = self._gap * FASTER if self._gap > FIRST_GAP_S else 0.0
                if sent >= self._slowed:
                    # Turns that were given out at a slower pace keep no one back for whom there is room now.
                    self._next = min(self._next, time.monotonic() + self._gap)


REQUEST_PACE = RequestPace()
"""Of this process, for all stores: a process works with one, and reads from another only when it starts."""
