"""What is left to fit: the snapshot's units, cut into ranges by position, minus the ranges already committed. Pure.

A unit is what is fitted by itself: a scan, or a patch of one (``patched/shard_units.py``). A range whose workers die is
divided, always in the same way: it is done when it is committed, or when all of its pieces are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.shards.snapshot import Shard, Snapshot

PIECES = 8
"""Pieces of a divided range. Four divisions isolate a fatal unit among 1024; each division costs as many workers as a
task has attempts."""

Rows = tuple[int, int]
"""First unit, last unit plus one."""
Units = Mapping[str, int]
"""Units of each shard, by its SHA-256."""


@dataclass(frozen=True)
class FitWork:
    """Units ``start`` to ``stop`` (exclusive) of one shard: what is fitted, committed and retried together."""

    split: str
    shard: Shard
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of its commit record: from the shard's content and the range, so new scans never change it."""
        return range_name(self.shard.sha256, self.start, self.stop)

    @property
    def units(self) -> int:
        """Number of units in the range."""
        return self.stop - self.start

    def divided(self) -> list[FitWork]:
        """The range in up to ``PIECES`` pieces, in order; empty for a single unit."""
        size = -(-self.units // PIECES)
        starts = range(self.start, self.stop, size) if self.units > 1 else ()
        return [replace(self, start=start, stop=min(start + size, self.stop)) for start in starts]


def range_name(shard: str, start: int, stop: int) -> str:
    """The name of units ``start`` to ``stop`` of the shard with this SHA-256."""
    return f"{shard[:24]}-{start:08d}-{stop:08d}"


def ranges(
    snapshot: Snapshot, splits: Sequence[str] | None, units_per_task: int, units: Units | None = None
) -> list[FitWork]:
    """Every range of the chosen splits (None: all), in the snapshot's order.

    Ranges are cut from each shard's start, so a shard's ranges are the same in every snapshot that holds it.
    ``units`` None: each scan is one.
    """
    works = []
    for split in chosen_splits(snapshot, splits):
        for shard in snapshot.splits[split]:
            last = shard.samples if units is None else units[shard.sha256]
            starts = range(0, last, units_per_task)
            works += [FitWork(split, shard, start, min(start + units_per_task, last)) for start in starts]
    return works


def plan(
    snapshot: Snapshot,
    splits: Sequence[str] | None,
    committed: Collection[str],
    units_per_task: int,
    units: Units | None = None,
) -> list[FitWork]:
    """The ranges, or pieces of divided ones, that are not among ``committed`` (names)."""
    return cover(ranges(snapshot, splits, units_per_task, units), committed)[1]


def cut_before(snapshot: Snapshot, committed: Collection[str], units: Units | None = None) -> int | None:
    """The units per task that explain all ranges of the snapshot among ``committed``; None where nothing does.

    A range is known by its length, or the last one of a shard by its start.
    """
    rows = _rows(committed)
    known = [(shard, start, stop) for shard in _shards(snapshot) for start, stop in rows.get(shard[:24], ())]
    names = {range_name(*row) for row in known}
    sizes = {stop - start for _, start, stop in known} | {math.gcd(*(start for _, start, _ in known))} - {0}
    for size in sorted(sizes, reverse=True):
        done = cover(ranges(snapshot, None, size, units), names)[0]
        if {work.name for work in done} == names:
            return size
    return None


def _shards(snapshot: Snapshot) -> set[str]:
    """SHA-256 of all shards."""
    return {shard.sha256 for shards in snapshot.splits.values() for shard in shards}


def cover(works: Iterable[FitWork], committed: Collection[str]) -> tuple[list[FitWork], list[FitWork]]:
    """The works, with divided ones as their pieces: those that are committed, and those that are left."""
    rows = _rows(committed)
    pieces = [piece for work in works for piece in _pieces(work, rows.get(work.shard.sha256[:24], ()))]
    return [piece for piece, done in pieces if done], [piece for piece, done in pieces if not done]


def overlaps(work: FitWork, names: Collection[str]) -> bool:
    """Whether any of the named ranges has a unit of the work."""
    there = _rows(names).get(work.shard.sha256[:24], ())
    return any(start < work.stop and work.start < stop for start, stop in there)


def _pieces(work: FitWork, committed: Iterable[Rows]) -> Iterator[tuple[FitWork, bool]]:
    inside = [rows for rows in committed if work.start <= rows[0] and rows[1] <= work.stop]
    whole = (work.start, work.stop) in inside
    if whole or not inside or work.units == 1:
        yield work, whole
        return
    for piece in work.divided():
        yield from _pieces(piece, inside)


def _rows(committed: Iterable[str]) -> Mapping[str, list[Rows]]:
    """The committed units of each shard."""
    found: dict[str, list[Rows]] = defaultdict(list)
    for name in committed:
        shard, start, stop = name.split("-")
        found[shard].append((int(start), int(stop)))
    return found


def chosen_splits(snapshot: Snapshot, splits: Sequence[str] | None) -> list[str]:
    """The splits to work on, sorted, without repetition; RunFileError names one that the snapshot lacks."""
    if splits is None:
        return sorted(snapshot.splits)
    missing = sorted(set(splits) - set(snapshot.splits))
    if missing:
        raise RunFileError(
            f"the data set has no split '{missing[0]}'",
            where="fit.splits",
            do=f"choose among {', '.join(sorted(snapshot.splits))}, or leave the key out to fit them all",
        )
    return sorted(set(splits))
