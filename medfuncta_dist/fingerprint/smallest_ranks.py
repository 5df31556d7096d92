"""Which sources of an archive, and which scans, are in the sample: those whose names have the smallest digests.

So the choice needs no seed, does not depend on the order in which scans are found, and a larger sample contains a
smaller one. A digest stays in the process: nothing that is written holds one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from medfuncta_dist.storage.digest import sha256_bytes

T = TypeVar("T")


class Drawn(NamedTuple, Generic[T]):
    """One of the sample: a source, or the facts of a scan. ``rank`` (hex) is unique among those of an archive."""

    rank: str
    what: T


def rank_of(relative: str, item: str = "") -> str:
    """The digest of a source's relative path, or of a scan in it."""
    return sha256_bytes(f"{relative}\0{item}".encode("utf-8", "surrogateescape"))


class Sample(Generic[T]):
    """The ``size`` sources or scans with the smallest ranks of all that were offered."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ranks: list[int] = []
        """Negative: the first is that of the largest rank."""
        self._drawn: dict[int, T] = {}

    def wants(self, rank: str) -> bool:
        """Whether it would be in the sample; False saves the work of measuring it."""
        return len(self._ranks) < self._size or int(rank, 16) < -self._ranks[0]

    def add(self, drawn: Iterable[Drawn[T]]) -> None:
        """Offer some."""
        for rank, what in drawn:
            if self.wants(rank) and -int(rank, 16) not in self._drawn:
                self._put(-int(rank, 16), what)

    def _put(self, place: int, what: T) -> None:
        self._drawn[place] = what
        if len(self._ranks) < self._size:
            heapq.heappush(self._ranks, place)
        else:
            del self._drawn[heapq.heapreplace(self._ranks, place)]

    def __iter__(self) -> Iterator[Drawn[T]]:
        """In the order of their ranks."""
        for place in sorted(self._drawn, reverse=True):
            yield Drawn(f"{-place:064x}", self._drawn[place])

    def __len__(self) -> int:
        return len(self._ranks)
