"""A rank's side of the heartbeat: its phase, sent from a thread of its own while the train thread works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from medfuncta_dist.training.liveness.heartbeat import HEARTBEATS_PER_TIMEOUT, Heartbeat

LONGEST_INTERVAL_S = 10.0
JOIN_S = 1.0
"""For a heartbeat that is being sent when the sender stops: an ordinary one takes milliseconds."""


class HeartbeatSender:
    """The train thread calls ``set_phase`` before each thing that may hang; ``send`` carries the heartbeats away.

    Heartbeats are sent while its ``with`` block runs. Until the first step is taken every phase may be slow: start-up
    compiles and fills caches.
    """

    def __init__(self, send: Callable[[Heartbeat], object], first: Heartbeat, timeout: float) -> None:
        self._send, self._heartbeat = send, first
        self.interval_s = min(LONGEST_INTERVAL_S, timeout / HEARTBEATS_PER_TIMEOUT)
        self._warming_up = True
        self._ended = threading.Event()
        self._phases: set[str] = set()
        self._thread = threading.Thread(target=self._send_regularly, name="heartbeat", daemon=True)

    def __enter__(self) -> HeartbeatSender:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop sending."""
        self._ended.set()
        self._thread.join(JOIN_S)

    def set_phase(self, phase: str, step: int, *, waits_for_others: bool = False, may_be_slow: bool = False) -> None:
        """Outer step ``step`` (0-based) enters ``phase``; ``waits_for_others`` in a collective."""
        self._phases.add(phase)
        self._heartbeat = replace(
            self._heartbeat,
            step=step,
            phase=phase,
            phases_begun=self._heartbeat.phases_begun + 1,
            waits_for_others=waits_for_others,
            may_be_slow=may_be_slow or self._warming_up,
        )

    @contextmanager
    def waiting(self, phase: str) -> Iterator[None]:
        """A collective within the present phase, which goes on afterwards."""
        before = self._heartbeat
        self.set_phase(phase, before.step, waits_for_others=True, may_be_slow=before.may_be_slow)
        yield
        flags = {"waits_for_others": before.waits_for_others, "may_be_slow": before.may_be_slow}
        self.set_phase(before.phase, before.step, **flags)

    def signal_alive(self) -> None:
        """The phase of this rank takes long, and goes on."""
        self._heartbeat = replace(self._heartbeat, life_signs=self._heartbeat.life_signs + 1)

    def end_warm_up(self) -> None:
        """The first step is taken: from now on a step takes its usual time."""
        self._warming_up = False

    def has_been_in(self, phase: str) -> bool:
        """Whether this attempt has been in this phase before: only the first time may be slow."""
        return phase in self._phases

    def _send_regularly(self) -> None:
        self._send(self._heartbeat)  # At once: a rank that was never heard of cannot be found to hang.
        while not self._ended.wait(self.interval_s):
            self._send(self._heartbeat)
