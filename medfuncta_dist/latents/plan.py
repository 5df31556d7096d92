"""What is left to fit: the snapshot's scans, cut into ranges by position, minus the ranges already committed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.shards.snapshot import Shard, Snapshot


@dataclass(frozen=True)
class FitWork:
    """Scans ``start`` to ``stop`` (exclusive) of one shard: the unit that is fitted, committed and retried."""

    split: str
    shard: Shard
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of the commit record: the shard's content and the range, so new scans never rename old work."""
        return f"{self.shard.sha256[:24]}-{self.start:08d}-{self.stop:08d}"

    @property
    def scans(self) -> int:
        """Number of scans in the range."""
        return self.stop - self.start


def ranges(snapshot: Snapshot, splits: Sequence[str] | None, scans_per_task: int) -> list[FitWork]:
    """Every range of the chosen splits (None: all), in the snapshot's order.

    Ranges are cut from each shard's start, so a shard's ranges are the same in every snapshot that holds it. A scan's
    neighbours in a batch, and with them its bits, therefore never depend on what else is fitted.
    """
    works = []
    for split in chosen_splits(snapshot, splits):
        for shard in snapshot.splits[split]:
            starts = range(0, shard.samples, scans_per_task)
            works += [FitWork(split, shard, start, min(start + scans_per_task, shard.samples)) for start in starts]
    return works


def plan(
    snapshot: Snapshot, splits: Sequence[str] | None, committed: Collection[str], scans_per_task: int
) -> list[FitWork]:
    """The ranges whose names are not among ``committed``."""
    return [work for work in ranges(snapshot, splits, scans_per_task) if work.name not in committed]


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
