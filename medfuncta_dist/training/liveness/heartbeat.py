"""Who hangs. Each rank says now and then what it is doing; who stops saying so, or stops moving, is named. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

PATIENT_S = 1800.0
"""What start-up, a first step, a first validation and an upload may take: compilers, cold caches and storage are slow,
not stuck."""
PATIENT_SILENCE_S = 60.0
"""Even then a living process speaks within a minute: its words come from a thread of their own."""
BEATS_A_TIMEOUT = 8
"""So many words fit into ``train.hang_timeout``; a few may be lost or late."""


@dataclass(frozen=True)
class Beat:
    """What a rank is doing. ``moves`` counts the things it has begun in this attempt, alike on all ranks."""

    attempt: str
    rank: int
    node: str
    pid: int
    step: int
    doing: str
    moves: int
    signs: int
    """Signs of life while it does this one thing."""
    waits: bool
    """For other ranks: a collective."""
    patient: bool
    """Whether this may take as long as PATIENT_S."""


@dataclass(frozen=True)
class Hung:
    """A rank to be ended, and why."""

    beat: Beat
    why: str


@dataclass
class _Rank:
    beat: Beat
    heard: float
    moved: float


class Heartbeats:
    """The last word of every rank of the newest attempt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._attempt = clock, ""
        self._ranks: dict[int, _Rank] = {}
        self._over = False

    def hear(self, beat: Beat) -> None:
        """A rank's word. Those of earlier attempts are late, and do not count."""
        if beat.attempt < self._attempt:
            return
        if beat.attempt > self._attempt:
            self._attempt, self._ranks, self._over = beat.attempt, {}, False
        now, last = self._clock(), self._ranks.get(beat.rank)
        same = last is not None and (beat.moves, beat.signs) == (last.beat.moves, last.beat.signs)
        moved = last.moved if last is not None and same else now
        self._ranks[beat.rank] = _Rank(beat, now, moved)

    def done(self) -> None:
        """This attempt has ended, or is being ended: its silence means nothing."""
        self._over = True

    def hung(self, timeout: float) -> list[Hung]:
        """Who keeps the others waiting, if anyone has not moved for ``timeout`` seconds.

        First whoever is silent (stopped, or its machine gone), then whoever is busy with something of its own, last
        those furthest behind where all wait for each other. While one of them still moves or gives signs of life the
        others wait for that one, and it takes long (a slow storage, a first compilation): then nobody is named.
        """
        now = self._clock()
        late = [] if self._over else [r for r in self._ranks.values() if _is_late(r, now, timeout)]
        if not late:
            return []
        # Among all: one that was stopped in its first step said last that it needs patience; others are beyond that.
        silent = [r for r in self._ranks.values() if now - r.heard >= (timeout / 2 if r in late else timeout)]
        busy = [r for r in late if not r.beat.waits]
        stuck = late if len(late) == len(self._ranks) else []
        behind = [r for r in stuck if r.beat.moves == min(r.beat.moves for r in stuck)]
        found = silent or busy or behind
        return [Hung(r.beat, _why(r, now, bool(silent))) for r in found]


def _is_late(rank: _Rank, now: float, timeout: float) -> bool:
    if rank.beat.patient:
        return now - rank.moved >= max(timeout, PATIENT_S) or now - rank.heard >= max(timeout, PATIENT_SILENCE_S)
    return now - rank.moved >= timeout


def _why(rank: _Rank, now: float, silent: bool) -> str:
    last = f"{rank.beat.doing} (outer step {rank.beat.step + 1})"
    if silent:
        return f"silent for {now - rank.heard:.0f} s, last word: {last}"
    return f"{last} for {now - rank.moved:.0f} s"
