"""Finds ranks that hang. Each rank reports now and then what it is doing; one that stops reporting, or stays in one
phase for too long, is found here. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SLOW_PHASE_S = 1800.0
"""What start-up, a first step, a first validation and an upload may take: compilers, cold caches and storage are slow,
not stuck."""
SLOW_PHASE_SILENCE_S = 60.0
"""Even then a living process sends a heartbeat within a minute: heartbeats come from a thread of their own."""


def collective_timeout_s(hang_timeout: float) -> float:
    """What an exchange between ranks may take where heartbeats do not judge it: at start-up, during long uploads, and
    when the driver is gone."""
    return max(SLOW_PHASE_S, 2 * hang_timeout)


HEARTBEATS_PER_TIMEOUT = 8
"""Heartbeats sent within ``train.hang_timeout``: a few may be lost or late."""


@dataclass(frozen=True)
class Heartbeat:
    """What a rank is doing. ``phases_begun`` counts its phases in this attempt; all ranks go through the same ones."""

    attempt: str
    rank: int
    node: str
    pid: int
    step: int
    phase: str
    phases_begun: int
    life_signs: int
    """Signs of life within this phase."""
    waits_for_others: bool
    """Whether the phase is a collective."""
    may_be_slow: bool
    """Whether the phase may take as long as SLOW_PHASE_S."""


@dataclass(frozen=True)
class HungRank:
    """A rank to be killed, and why."""

    heartbeat: Heartbeat
    reason: str


@dataclass
class _RankState:
    heartbeat: Heartbeat
    received: float
    progressed: float


class HeartbeatMonitor:
    """The last heartbeat of every rank of the newest attempt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._attempt = clock, ""
        self._ranks: dict[int, _RankState] = {}
        self._ended = False

    def record(self, heartbeat: Heartbeat) -> None:
        """Take a rank's heartbeat. Those of earlier attempts are late, and do not count."""
        if heartbeat.attempt < self._attempt:
            return
        if heartbeat.attempt > self._attempt:
            self._begin_attempt(heartbeat.attempt)
        now, last = self._clock(), self._ranks.get(heartbeat.rank)
        progressed = last.progressed if last is not None and _is_same_phase(heartbeat, last.heartbeat) else now
        self._ranks[heartbeat.rank] = _RankState(heartbeat, now, progressed)

    def end_attempt(self) -> None:
        """This attempt has ended, or is being ended: its silence is no sign of a hang."""
        self._ended = True

    def find_hung(self, timeout: float) -> list[HungRank]:
        """The ranks that keep the others waiting, if any rank has not progressed for ``timeout`` seconds.

        First those that are silent (stopped, or their machine is gone), then those busy in a phase of their own, last
        those furthest behind where all wait for each other. As long as one of them still progresses or gives signs of
        life, the others wait for that one, which is slow (storage, a first compilation): then no rank is hung.
        """
        now = self._clock()
        late = [] if self._ended else [rank for rank in self._ranks.values() if _is_late(rank, now, timeout)]
        if not late:
            return []
        # Among all: one that was stopped in its first step said last that it may be slow; others are beyond that.
        silent = [
            rank for rank in self._ranks.values() if now - rank.received >= (timeout / 2 if rank in late else timeout)
        ]
        busy = [rank for rank in late if not rank.heartbeat.waits_for_others]
        all_waiting = late if len(late) == len(self._ranks) else []
        found = silent or busy or _furthest_behind(all_waiting)
        return [HungRank(rank.heartbeat, _reason(rank, now, bool(silent))) for rank in found]

    def _begin_attempt(self, attempt: str) -> None:
        self._attempt, self._ranks, self._ended = attempt, {}, False


def _is_same_phase(now: Heartbeat, before: Heartbeat) -> bool:
    return (now.phases_begun, now.life_signs) == (before.phases_begun, before.life_signs)


def _is_late(rank: _RankState, now: float, timeout: float) -> bool:
    in_phase_s = now - rank.progressed
    if rank.heartbeat.may_be_slow:
        return in_phase_s >= max(timeout, SLOW_PHASE_S) or now - rank.received >= max(timeout, SLOW_PHASE_SILENCE_S)
    return in_phase_s >= timeout


def _furthest_behind(ranks: list[_RankState]) -> list[_RankState]:
    fewest = min((rank.heartbeat.phases_begun for rank in ranks), default=0)
    return [rank for rank in ranks if rank.heartbeat.phases_begun == fewest]


def _reason(rank: _RankState, now: float, silent: bool) -> str:
    phase = f"{rank.heartbeat.phase} (outer step {rank.heartbeat.step + 1})"
    if silent:
        return f"silent for {now - rank.received:.0f} s, last phase: {phase}"
    return f"{phase} for {now - rank.progressed:.0f} s"
