"""A clock of its own for threads that take turns: hours of waiting pass in seconds, and each run is like the last.

``time.monotonic`` and ``time.sleep`` mean this clock in the threads that it started, and only there.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch


class VirtualTime:
    """``start`` threads, then ``run`` until the last one has ended. One runs at a time: the one that wakes first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._wakes: list[tuple[float, int, threading.Semaphore]] = []
        self._number, self._turn_over = 0, threading.Semaphore(0)
        self._own = threading.local()
        self.errors: list[BaseException] = []

    def start(self, work: Callable[[], None], at: float = 0.0) -> None:
        """A thread that begins ``work`` at the time ``at``."""
        turn = threading.Semaphore(0)

        def main() -> None:
            self._own.turn = turn
            turn.acquire()
            try:
                work()
            except BaseException as error:
                self.errors.append(error)
            self._turn_over.release()

        threading.Thread(target=main, daemon=True).start()
        self._wake(at, turn)

    def run(self, until: float) -> None:
        """Take turns until every thread has ended. AssertionError where one still waits at the time ``until``."""
        with self._patched():
            while self._wakes:
                self.now, _, turn = heapq.heappop(self._wakes)
                assert self.now < until, f"{len(self._wakes) + 1} threads have not ended"
                turn.release()
                self._turn_over.acquire()

    def sleep(self, seconds: float) -> None:
        """Let the others have their turns until ``seconds`` have passed."""
        self._wake(self.now + max(0.0, seconds), self._own.turn)
        self._turn_over.release()
        self._own.turn.acquire()

    def _wake(self, at: float, turn: threading.Semaphore) -> None:
        self._number += 1
        heapq.heappush(self._wakes, (at, self._number, turn))

    @contextmanager
    def _patched(self) -> Iterator[None]:
        monotonic, sleep = time.monotonic, time.sleep

        def is_ours() -> bool:
            return hasattr(self._own, "turn")

        def now() -> float:
            return self.now if is_ours() else monotonic()

        def wait(seconds: float) -> None:
            (self.sleep if is_ours() else sleep)(seconds)

        with patch.object(time, "monotonic", now), patch.object(time, "sleep", wait):
            yield
