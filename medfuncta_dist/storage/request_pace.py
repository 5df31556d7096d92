"""How fast this process sends requests: all its threads slow down together while the store answers "too many requests".

Each such answer (503 SlowDown and similar) lengthens the gap between two requests, each success shortens it. With fewer
than about a fifth of the requests refused, the gap closes again; with more it grows, up to two seconds.
"""

from __future__ import annotations

import threading
import time

FIRST_GAP_S, LONGEST_GAP_S = 0.01, 2.0
SLOWER, FASTER = 1.5, 0.9
LONGEST_PAUSE_S = 60.0
"""The longest ``Retry-After`` that is followed: a store that asks for more is misconfigured."""


class RequestPace:
    """The gap between two requests, shared by all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gap, self._next = 0.0, 0.0

    def wait(self, most_s: float) -> None:
        """Wait until this thread may send its request, at most ``most_s`` seconds; not at all without refusals."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            time.sleep(max(0.0, min(start - now, most_s)))

    def slow_down(self, pause_s: float = 0.0) -> None:
        """The store refused a request as one too many; ``pause_s``: seconds without any request that it asked for."""
        with self._lock:
            self._gap = min(max(self._gap * SLOWER, FIRST_GAP_S), LONGEST_GAP_S)
            self._next = max(self._next, time.monotonic() + min(pause_s, LONGEST_PAUSE_S))

    def speed_up(self) -> None:
        """The store answered a request."""
        if self._gap:
            with self._lock:
                self._gap = self._gap * FASTER if self._gap > FIRST_GAP_S else 0.0


REQUEST_PACE = RequestPace()
"""Of this process, for all stores: a process works with one, and reads from another only when it starts."""
