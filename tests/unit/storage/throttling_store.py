"""A store that answers 503 SlowDown to what is beyond its rate, and processes that use it, on a virtual clock.

Only the store and the clock are simulated: the processes' requests go through ObjectStore and its retries, and each
process has a RequestPace of its own, as real ones have.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from botocore.exceptions import ClientError

from medfuncta_dist.storage import retry
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_pace import RequestPace
from tests.unit.storage.virtual_time import VirtualTime

FASTEST_S, SLOWEST_S = 0.02, 0.06
"""What an answer takes."""
BURST_S = 1.0
"""Unused requests of this long may be made up for at once: at least one request, however low the rate."""


@dataclass
class ThrottlingStore:
    """Serves ``rate`` requests per second; ``outage``: from when to when it refuses all."""

    clock: VirtualTime
    rate: float
    retry_after_s: int | None = None
    outage: tuple[float, float] = (0.0, 0.0)
    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    _left: float = field(init=False)
    _refilled: float = 0.0

    def __post_init__(self) -> None:
        self._left = self._most

    @property
    def _most(self) -> float:
        return max(1.0, self.rate * BURST_S)

    def read(self, path: str, limit: int | None, seconds: float) -> bytes:
        self._answer()
        return b""

    def write(self, path: str, data: bytes, seconds: float) -> None:
        self._answer()

    def _answer(self) -> None:
        taken = self._take()
        (self.served if taken else self.refused).append(self.clock.now)
        self.clock.sleep(random.uniform(FASTEST_S, SLOWEST_S))
        if not taken:
            raise self._slow_down()

    def _take(self) -> bool:
        now = self.clock.now
        self._left = min(self._left + (now - self._refilled) * self.rate, self._most)
        self._refilled = now
        if self._left < 1 or self.outage[0] <= now < self.outage[1]:
            return False
        self._left -= 1
        return True

    def _slow_down(self) -> ClientError:
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        metadata: Any = {"HTTPStatusCode": 503, "HTTPHeaders": headers}
        return ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": metadata}, "GetObject")

    @property
    def arrivals(self) -> list[float]:
        """When each request came."""
        return sorted([*self.served, *self.refused])


class _PaceOfThread:
    """Stands for the one pace of a process, where several processes are threads of one."""

    def __init__(self) -> None:
        self.own = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own.pace, name)


class Cluster:
    """Processes that share a store. A process is a number of threads with one RequestPace."""

    def __init__(self, rate: float, **store: Any) -> None:
        self.clock = VirtualTime()
        self.store = ThrottlingStore(self.clock, rate, **store)
        self._paces = _PaceOfThread()

    def add_process(self, threads: Sequence[Callable[[ObjectStore], None]], at: float = 0.0) -> None:
        """A process that starts at the time ``at``."""
        pace = RequestPace()
        for work in threads:
            self.clock.start(lambda work=work: self._run(pace, work), at)

    def run(self, until: float) -> None:
        """Until all processes have ended; raises what the first one raised."""
        with patch.object(retry, "REQUEST_PACE", self._paces):
            self.clock.run(until)
        for error in self.clock.errors:
            raise error

    def sleep(self, seconds: float) -> None:
        """What a process computes between two requests."""
        self.clock.sleep(seconds)

    def _run(self, pace: RequestPace, work: Callable[[ObjectStore], None]) -> None:
        self._paces.own.pace = pace
        store = ObjectStore("s3://bucket/root")
        vars(store)["_backend"] = self.store
        work(store)


def busiest(times: Sequence[float], seconds: float = 1.0) -> int:
    """The most of these times that lie within one span of so many seconds."""
    ordered, first, most = sorted(times), 0, 0
    for last, time in enumerate(ordered):
        while ordered[first] <= time - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
