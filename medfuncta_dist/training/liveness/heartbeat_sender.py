"""A rank's side of the heartbeat: what it is doing, said from a thread of its own while the train thread works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from medfuncta_dist.training.liveness.heartbeat import BEATS_A_TIMEOUT, Beat

LONGEST_BETWEEN_S = 10.0
LAST_WORD_S = 1.0
"""For a word that is being said when a rank falls silent: an ordinary one takes milliseconds."""


class Pulse:
    """``at`` is called by the train thread before each thing that may hang; ``tell`` carries the words away.

    It speaks while its ``with`` block runs. Until the first step is taken everything is said to be patient: start-up
    compiles and fills caches.
    """

    def __init__(self, tell: Callable[[Beat], object], first: Beat, timeout: float) -> None:
        self._tell, self._beat = tell, first
        self.every_s = min(LONGEST_BETWEEN_S, timeout / BEATS_A_TIMEOUT)
        self._warm, self._ended = False, threading.Event()
        self._been: set[str] = set()
        self._thread = threading.Thread(target=self._speak, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Fall silent."""
        self._ended.set()
        self._thread.join(LAST_WORD_S)

    def at(self, doing: str, step: int, *, waits: bool = False, patient: bool = False) -> None:
        """Outer step ``step`` (0-based) is at ``doing``; ``waits`` for other ranks."""
        last = self._beat
        patient = patient or not self._warm
        self._been.add(doing)
        self._beat = replace(last, step=step, doing=doing, moves=last.moves + 1, waits=waits, patient=patient)

    def alive(self) -> None:
        """What this rank is doing takes long, and goes on."""
        self._beat = replace(self._beat, signs=self._beat.signs + 1)

    def warm(self) -> None:
        """The first step is taken: from now on a step takes what a step takes."""
        self._warm = True

    def has_been(self, doing: str) -> bool:
        """Whether this has been done before, in this attempt: only the first time may be slow."""
        return doing in self._been

    def _speak(self) -> None:
        self._tell(self._beat)  # At once: a rank of which nothing was ever heard can not be named.
        while not self._ended.wait(self.every_s):
            self._tell(self._beat)
