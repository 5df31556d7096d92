"""How fast this process may ask: all its threads slow down together while a store says that it is asked too often.

Each refusal (503 SlowDown and its like) makes the gap between two requests longer, each answer shorter. Where fewer
than about a fifth of the requests are refused, the gap closes again; under more it grows, up to two seconds.
"""

from __future__ import annotations

import threading
import time

FIRST_GAP_S, LONGEST_GAP_S = 0.01, 2.0
SLOWER, FASTER = 1.5, 0.9
LONGEST_PAUSE_S = 60.0
"""As long as a ``Retry-After`` is obeyed: a store that wants more has a mistake in it."""


class Pace:
    """Of one process towards its store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gap, self._next = 0.0, 0.0

    def turn(self, most_s: float) -> None:
        """Wait for this thread's turn, at most ``most_s`` seconds; at once while nothing was refused lately."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            time.sleep(max(0.0, min(turn - now, most_s)))

    def refused(self, pause_s: float = 0.0) -> None:
        """The store asked for less; ``pause_s``: and for this many seconds without any request."""
        with self._lock:
            self._gap = min(max(self._gap * SLOWER, FIRST_GAP_S), LONGEST_GAP_S)
            self._next = max(self._next, time.monotonic() + min(pause_s, LONGEST_PAUSE_S))

    def answered(self) -> None:
        """The store did what it was asked."""
        if self._gap:
            with self._lock:
                self._gap = self._gap * FASTER if self._gap > FIRST_GAP_S else 0.0


PACE = Pace()
"""This process's. One for all stores: a process works with one, and reads another at most at its beginning."""
