"""Which scans of an archive are in the sample: those whose names have the smallest digests.

So the choice needs no seed, does not depend on the order in which scans are found, and a larger sample contains a
smaller one. A digest stays in the process: nothing that is written holds one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from medfuncta_dist.fingerprint.scan_facts import ScanFacts
from medfuncta_dist.storage.digest import sha256_bytes


class Drawn(NamedTuple):
    """A scan of the sample. ``rank`` (hex) is unique among the scans of an archive."""

    rank: str
    facts: ScanFacts


def rank_of(relative: str, item: str = "") -> str:
    """The digest of a source's relative path, or of a scan in it."""
    return sha256_bytes(f"{relative}\0{item}".encode("utf-8", "surrogateescape"))


class ScanSample:
    """The ``size`` scans with the smallest ranks of all that were offered."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ranks: list[int] = []
        """Negative: the first is that of the largest rank."""
        self._facts: dict[int, ScanFacts] = {}

    def wants(self, rank: str) -> bool:
        """Whether the scan would be in the sample; False saves the work of measuring it."""
        return len(self._ranks) < self._size or int(rank, 16) < -self._ranks[0]

    def add(self, drawn: Iterable[Drawn]) -> None:
        """Offer scans."""
        for rank, facts in drawn:
            if self.wants(rank) and -int(rank, 16) not in self._facts:
                self._put(-int(rank, 16), facts)

    def _put(self, place: int, facts: ScanFacts) -> None:
        self._facts[place] = facts
        if len(self._ranks) < self._size:
            heapq.heappush(self._ranks, place)
        else:
            del self._facts[heapq.heapreplace(self._ranks, place)]

    def __iter__(self) -> Iterator[Drawn]:
        """In the order of their ranks."""
        for place in sorted(self._facts, reverse=True):
            yield Drawn(f"{-place:064x}", self._facts[place])

    def __len__(self) -> int:
        return len(self._ranks)
