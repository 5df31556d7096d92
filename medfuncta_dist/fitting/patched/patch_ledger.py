"""From ranges of patches to scans: which are fitted, and how well.

A range's record and its part of scans tell of patches; a scan may be in several. It is fitted if all of its patches
have a row, quarantined if any was lost, whatever range that was in, and else not finished. So scans are counted once:
in the shards = fitted + quarantined, when every range is committed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork, cover
from medfuncta_dist.fitting.latent_ledger import Commit, Counts, Quarantined, Spread
from medfuncta_dist.fitting.patched.shard_units import ShardUnits
from medfuncta_dist.latents.patch_format import patch_rows, scan_rows
from medfuncta_dist.latents.patch_format.row_groups import GroupedFile, GroupedRef
from medfuncta_dist.latents.patch_format.scan_rows import TableFacts
from medfuncta_dist.latents.table_format import FIT_AGAIN, PartRef
from medfuncta_dist.storage.object_store import ObjectStore

READERS = 16
PSNR_CAP = 100.0
"""dB, of a scan without any error, as of a patch."""


@dataclass(frozen=True)
class FittedScan:
    """A scan all of whose patches have a row."""

    key: str
    split: str
    labels: tuple[int, ...]
    patches: int
    rows: int
    """Of its patches so far: all of them, when it is done."""
    squared_error: float
    points: int
    worst_psnr: float
    worst_patch: int
    commit: int
    """Where its rows begin: the place of the range's commit among those given, the row in its part of patches, and the
    row of the scan in its part of scans."""
    first_row: int
    scan_row: int
    facts: TableFacts
    """Of its table."""

    @property
    def psnr(self) -> float:
        """dB, over all points of all patches: where patches overlap, a point counts in each, as before blending."""
        error = self.squared_error / self.points
        return min(-10 * math.log10(error), PSNR_CAP) if error > 0 else PSNR_CAP

    @property
    def below_min(self) -> bool:
        """Whether that is below ``fit.min_psnr``."""
        return self.psnr < self.facts.min_psnr

    def joined(self, more: FittedScan) -> FittedScan:
        """With the rows of the next range."""
        worse = more.worst_psnr < self.worst_psnr
        return replace(
            self,
            rows=self.rows + more.rows,
            squared_error=self.squared_error + more.squared_error,
            points=self.points + more.points,
            worst_psnr=more.worst_psnr if worse else self.worst_psnr,
            worst_patch=more.worst_patch if worse else self.worst_patch,
        )


def fitted_scans(store: ObjectStore, folder: str, commits: Sequence[Commit]) -> Iterator[FittedScan]:
    """The scans of these ranges that are fitted whole, in the order of the shards; a few parts in memory at once.

    ``commits``: in the order of their names, so that the ranges of a scan follow each other; all of those that count,
    for a scan is quarantined by any of them.
    """
    lost = {(commit.shard, q.key) for commit in commits for q in commit.quarantined}
    open_scan: tuple[str, FittedScan] | None = None
    for shard, scan in _rows(store, folder, commits):
        if open_scan is not None and (shard, scan.key) == (open_scan[0], open_scan[1].key):
            open_scan = shard, open_scan[1].joined(scan)
            continue
        yield from _whole(open_scan, lost)
        open_scan = shard, scan
    yield from _whole(open_scan, lost)


def _whole(found: tuple[str, FittedScan] | None, lost: set[tuple[str, str]]) -> Iterator[FittedScan]:
    if found is not None and (found[0], found[1].key) not in lost and found[1].rows == found[1].patches:
        yield found[1]


def _rows(store: ObjectStore, folder: str, commits: Sequence[Commit]) -> Iterator[tuple[str, FittedScan]]:
    """Every row of every part of scans, with its shard."""
    numbered = [(number, commit) for number, commit in enumerate(commits) if commit.patches and commit.patches.scans]
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(numbered), 2 * READERS):
            some = numbered[start : start + 2 * READERS]
            for found in pool.map(lambda one: list(_scans_of(store, folder, *one)), some):
                yield from found


def _scans_of(store: ObjectStore, folder: str, number: int, commit: Commit) -> Iterator[tuple[str, FittedScan]]:
    assert commit.patches is not None
    assert commit.patches.scans is not None
    part = commit.patches.scans
    table = scan_rows.read_part(store, folder, part)
    where = store.uri(f"{folder}/{part.path}")
    of_table = scan_rows.facts_of(table.schema, where)
    if table.num_rows != commit.patches.scan_rows:
        what = f"a part holds {table.num_rows} scans, but its commit record says {commit.patches.scan_rows}"
        raise IntegrityError(what, where=where, do="delete this latent table's folder and run fit again")
    names = ["key", "split", "labels", "patches", "rows", "squared_error", "points", "worst_psnr", "worst_patch"]
    for row, facts in enumerate(table.select([*names, "first_row"]).to_pylist()):
        facts |= {"labels": tuple(facts["labels"])}
        yield commit.shard, FittedScan(**facts, commit=number, scan_row=row, facts=of_table)


def patch_totals(
    store: ObjectStore,
    folder: str,
    works: Sequence[FitWork],
    commits: Mapping[str, Commit],
    units: Mapping[str, ShardUnits],
) -> tuple[Counts, dict[str, Spread]]:
    """Counts of scans, and their PSNR by split, of ranges that are all committed, as far as they have whole scans.

    IntegrityError unless every patch of every range is fitted or lost exactly once, and every scan of which no patch
    was lost has all of its rows.
    """
    latent_ledger.reconcile(works, commits)
    mine = sorted((commits[work.name] for work in cover(works, commits)[0]), key=lambda commit: commit.name)
    whole, lost = whole_scans(mine, units), lost_scans(mine)
    quarantined = len(whole & lost)
    sums: dict[str, list[float]] = defaultdict(list)
    flagged = 0
    for scan in fitted_scans(store, folder, mine):
        sums[scan.split].append(scan.psnr)
        flagged += scan.below_min
    fitted = sum(map(len, sums.values()))
    if fitted != len(whole) - quarantined:
        raise IntegrityError(
            f"{fitted} scans have all of their patches, but {len(whole) - quarantined} should: {len(whole)} are "
            f"packed, and {quarantined} of them quarantined",
            where=store.uri(folder),
            do="run fit again; if it happens again, delete this latent table's folder first",
        )
    counts = Counts(packed=len(whole), fitted=fitted, quarantined=quarantined, flagged=flagged)
    return counts, {split: _spread(values) for split, values in sorted(sums.items())}


def check_parts(store: ObjectStore, folder: str, commit: Commit) -> None:
    """Read both parts of a range back. IntegrityError where they are not those that were committed, or do not belong
    together: the rows of each scan follow each other, by patch, where its own row says."""
    part, patches = commit.part, commit.patches
    if part is None or patches is None or patches.scans is None:
        return
    ref = GroupedRef(part.path, part.sha256, part.size, patches.footer, patches.footer_sha256)
    rows = patch_rows.read_part(store, folder, part, ["key", "patch"])
    scans = scan_rows.read_part(store, folder, patches.scans, ["key", "rows", "first_patch", "first_row"])
    if any(held < 1 for held in scans["rows"].to_pylist()):
        raise _damaged(store, folder, patches.scans, "of scans tells of one without rows")
    counts = (GroupedFile(store, folder, ref).rows, rows.num_rows, sum(scans["rows"].to_pylist()))
    if set(counts) != {commit.rows} or scans.num_rows != patches.scan_rows:
        raise _damaged(
            store, folder, part, f"of patches holds {rows.num_rows}, but its commit record says {commit.rows}"
        )
    starts = [0, *accumulate(scans["rows"].to_pylist())]
    for row, scan in enumerate(scans.to_pylist()):
        mine = rows.slice(starts[row], scan["rows"])
        numbers, keys = mine["patch"].to_pylist(), set(mine["key"].to_pylist())
        ascend = all(one < two for one, two in pairwise(numbers))
        if (keys, numbers[0], scan["first_row"]) != ({scan["key"]}, scan["first_patch"], starts[row]) or not ascend:
            raise _damaged(store, folder, part, "of patches does not belong to its part of scans")


def _damaged(store: ObjectStore, folder: str, part: PartRef, what: str) -> IntegrityError:
    return IntegrityError(f"a part {what}", where=store.uri(f"{folder}/{part.path}"), do=FIT_AGAIN)


def verify(store: ObjectStore, folder: str, works: Sequence[FitWork], units: Mapping[str, ShardUnits]) -> Counts:
    """Read every part back, and count the scans; IntegrityError if any is wrong."""
    commits = latent_ledger.read_commits(store, folder)
    mine = [commits[work.name] for work in cover(works, commits)[0]]
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda commit: check_parts(store, folder, commit), mine))
    return patch_totals(store, folder, works, commits, units)[0]


def whole_scans(commits: Iterable[Commit], units: Mapping[str, ShardUnits]) -> set[tuple[str, int]]:
    """The scans, by shard and row, all of whose patches are in the ranges."""
    there: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for commit in commits:
        for scan, start, stop in units[commit.shard].scans_in(commit.start, commit.stop):
            there[commit.shard][scan] += stop - start
    return {
        (shard, scan) for shard, scans in there.items() for scan, n in scans.items() if n == units[shard].patches(scan)
    }


def lost_scans(commits: Iterable[Commit]) -> set[tuple[str, int]]:
    """The scans, by shard and row, of which a range has lost a patch."""
    return {(c.shard, one.scan) for c in commits if c.patches is not None for one in c.patches.lost}


def once(quarantined: Iterable[Quarantined]) -> list[Quarantined]:
    """Each key with the first of its reasons: ranges name the scans that they share."""
    found: dict[str, Quarantined] = {}
    for one in quarantined:
        found.setdefault(one.key, one)
    return list(found.values())


def _spread(values: Sequence[float]) -> Spread:
    mean = math.fsum(values) / len(values)
    return Spread(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)), len(values))
