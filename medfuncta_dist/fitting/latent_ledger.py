"""The latent table's ledger: one commit record per range, and the check that each scan is fitted or quarantined.

A record lies at ``<folder>/commits/<range>[-g<generation>].json``; the generation is the token of the driver's lease.
It is written last, so a range without one was not fitted. If a task failed as a whole, its record has no part and
lists all keys as quarantined: the counts balance, and the next run tries the range again, since shards can be repaired.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, StageOrderError
from medfuncta_dist.fitting.fit_plan import FitWork, cover, range_name
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import PartRef, Storage
from medfuncta_dist.storage.commit_record import FORMAT_VERSION, PATCHES_VERSION, Record, read_as, read_records
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.promised import REPAIR, missing_below
from medfuncta_dist.storage.publish import Guard, NewRecord, publish, withdraw

KIND = "latents"
NAMES = re.compile(r"[0-9a-f]{24}-\d{8}-\d{8}(-g\d{9,})?\.json")
"""Names of its commit records."""
_IF_ANY = ("unsolved_steps", "unsolved_scans", "unmeasured", "patches")
_DELETE = "delete this commit record and run fit again"


@dataclass(frozen=True)
class Quarantined:
    """A scan without a latent, and why: fixed words only."""

    key: str
    reason: str


@dataclass(frozen=True)
class LostPatches:
    """Of a scan with a patch that could not be fitted: its row in the shard, and how many of the range's patches of it
    have no latent."""

    scan: int
    patches: int


@dataclass(frozen=True)
class Patches:
    """What the record of a range of patches says besides. Its ``rows`` are patches, and ``quarantined`` names each scan
    with a patch of the range that has no latent, once."""

    footer: int
    """Bytes of the footer of the part of patches, with the eight that follow it, and in the next field their SHA-256;
    0 where there is no part."""
    footer_sha256: str
    scans: PartRef | None
    """The part of scans."""
    scan_rows: int
    lost: tuple[LostPatches, ...] = ()
    """For each entry of ``quarantined``."""


@dataclass(frozen=True)
class Commit:
    """The result of one range. ``psnr_sum`` and ``psnr_squares`` (dB, dB²) give totals without reading the parts."""

    split: str
    shard: str
    start: int
    stop: int
    rows: int
    part: PartRef | None
    quarantined: tuple[Quarantined, ...] = ()
    below_min: int = 0
    psnr_sum: float = 0.0
    psnr_squares: float = 0.0
    failed: bool = False
    """The range failed as a whole, before any scan was fitted: the next run tries it again."""
    unsolved_steps: int = 0
    """Steps of fitted scans that had no solution, and in the next field how many scans these were. Only in records in
    which there are some: earlier versions know neither."""
    unsolved_scans: int = 0
    unmeasured: int = 0
    """Rows without a PSNR, imported without their scans. Only in records in which there are some, as above."""
    patches: Patches | None = None
    """Only in the records of a table of patches, which have a version of their own."""

    @property
    def name(self) -> str:
        """The range's name."""
        return range_name(self.shard, self.start, self.stop)

    @property
    def lost_units(self) -> int:
        """Units of the range that have no row."""
        return len(self.quarantined) if self.patches is None else sum(one.patches for one in self.patches.lost)

    @property
    def parts(self) -> list[PartRef]:
        """All that it names."""
        scans = None if self.patches is None else self.patches.scans
        return [part for part in (self.part, scans) if part is not None]

    def body(self) -> dict[str, Any]:
        """As JSON objects."""
        body = asdict(self) | {"quarantined": [asdict(q) for q in self.quarantined]}
        return {key: value for key, value in body.items() if value or key not in _IF_ANY}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (population) of a PSNR in dB, over ``scans``."""

    mean: float
    std: float
    scans: int


@dataclass(frozen=True)
class Counts:
    """packed = fitted + quarantined; flagged scans are among the fitted ones."""

    packed: int
    fitted: int
    quarantined: int
    flagged: int


@dataclass(frozen=True)
class Unsolved:
    """Steps that had no solution and left the latent where it was, and the number of fitted scans with such steps."""

    steps: int
    scans: int


def record_path(folder: str, work: FitWork, fence: Guard | None = None) -> str:
    """Path of a driver's commit record of a range. Two drivers never share a name, so none overwrites another's."""
    return f"{folder}/commits/{work.name}{f'-g{fence.token:09d}' if fence and fence.token else ''}.json"


def write_commit(store: ObjectStore, folder: str, work: FitWork, commit: Commit, fence: Guard) -> None:
    """Write the commit record of a range: the last thing a task does. LeaseLostError if the lease is lost."""
    version = FORMAT_VERSION if commit.patches is None else PATCHES_VERSION
    publish(store, fence, NewRecord(record_path(folder, work, fence), KIND, commit.body(), fence.token, version))


def read_commit(store: ObjectStore, folder: str, work: FitWork, fence: Guard | None = None) -> Commit | None:
    """The commit record that this driver has written of a range, or None."""
    try:
        return read_as(Commit, store, record_path(folder, work, fence), KIND)
    except ObjectMissingError:
        return None


def read_commits(store: ObjectStore, folder: str) -> dict[str, Commit]:
    """The commit records that count, by range name; the digests of all are verified."""
    return settle(record for _, record in read_records(store, f"{folder}/commits", KIND, NAMES))


def missing_parts(store: ObjectStore, folder: str, commits: Iterable[Commit]) -> list[Commit]:
    """The commits that name a part which is not in storage, or not in its size: one listing of the table's parts."""
    listed = list(commits)
    sizes = {f"{folder}/{part.path}": part.size for commit in listed for part in commit.parts}
    lost = set(missing_below(store, f"{folder}/parts", sizes))
    return [commit for commit in listed if any(f"{folder}/{part.path}" in lost for part in commit.parts)]


def require_parts(store: ObjectStore, folder: str, commits: Iterable[Commit]) -> None:
    """IntegrityError unless every part that these commits name is in storage (see ``missing_parts``)."""
    lost = missing_parts(store, folder, commits)
    if lost:
        raise IntegrityError(
            f"{len(lost)} parts of the latent table, with {sum(c.rows for c in lost)} scans, are missing or cut short",
            where=store.uri(f"{folder}/{lost[0].parts[0].path}"),
            do=f"run the fit stage again: it fits these scans again, and only them; or {REPAIR}",
        )


def withdraw_lost(store: ObjectStore, folder: str, fence: Guard) -> tuple[dict[str, Commit], int]:
    """The commits that count, as ``read_commits`` gives them, and how many are gone because their part is missing.

    Records of missing parts, also of earlier drivers, are removed: their ranges count as not fitted then.
    LeaseLostError if the lease is lost.
    """
    records = read_records(store, f"{folder}/commits", KIND, NAMES)
    commits = [typed(Commit, record.body, "a latents record", record.where, _DELETE) for _, record in records]
    lost = {tuple(commit.parts) for commit in missing_parts(store, folder, commits)}
    gone = {path for (path, _), commit in zip(records, commits, strict=True) if tuple(commit.parts) in lost}
    for path in sorted(gone):
        withdraw(store, fence, path)
    return settle(record for path, record in records if path not in gone), len(lost)


def settle(records: Iterable[Record]) -> dict[str, Commit]:
    """The commits that count, by range name: no scan is in two of them, whatever their order.

    For each range the highest generation counts; between a range and its pieces, the range. A range that failed as a
    whole counts only if nothing else covers it.
    """
    best: dict[str, Commit] = {}
    for record in sorted(records, key=lambda r: (r.generation, r.digest)):
        commit = typed(Commit, record.body, "a latents record", record.where, _DELETE)
        if not commit.failed or best.get(commit.name, commit).failed:
            best[commit.name] = commit
    counting: dict[str, Commit] = {}
    for failed in (False, True):
        some = [commit for commit in best.values() if commit.failed == failed]
        counting |= {c.name: c for c in _apart(some, taken=counting.values())}
    return counting


def _apart(commits: Iterable[Commit], taken: Iterable[Commit]) -> list[Commit]:
    """Those that overlap neither ``taken`` ones nor each other, larger ones first."""
    rows: dict[str, list[tuple[int, int]]] = {}
    for commit in taken:
        rows.setdefault(commit.shard, []).append((commit.start, commit.stop))
    chosen = []
    for commit in sorted(commits, key=lambda c: (c.start - c.stop, c.start)):
        there = rows.setdefault(commit.shard, [])
        if all(commit.stop <= start or stop <= commit.start for start, stop in there):
            there.append((commit.start, commit.stop))
            chosen.append(commit)
    return chosen


def settled(commits: Mapping[str, Commit]) -> set[str]:
    """Names of the ranges that need no further work."""
    return {name for name, commit in commits.items() if not commit.failed}


def reconcile(works: Sequence[FitWork], commits: Mapping[str, Commit]) -> Counts:
    """Count the ranges; IntegrityError unless every scan of every range is fitted or quarantined exactly once."""
    done, left = cover(works, commits)
    for work in (*left, *done):
        _check(work, commits.get(work.name))
    mine = [commits[work.name] for work in done]
    return Counts(
        packed=sum(work.units for work in works),
        fitted=sum(commit.rows for commit in mine),
        quarantined=sum(len(commit.quarantined) for commit in mine),
        flagged=sum(commit.below_min for commit in mine),
    )


def unsolved(commits: Iterable[Commit]) -> Unsolved:
    """The sums over some ranges."""
    found = list(commits)
    return Unsolved(sum(c.unsolved_steps for c in found), sum(c.unsolved_scans for c in found))


def table_digest(commits: Iterable[Commit]) -> str:
    """SHA-256 over the parts of some ranges, whatever their order."""
    return digest_json(sorted(part.sha256 for commit in commits for part in commit.parts))


def psnr_by_split(commits: Iterable[Commit]) -> dict[str, Spread]:
    """PSNR over the fitted scans of each split, where any was measured."""
    groups: dict[str, list[Commit]] = {}
    for commit in commits:
        if commit.rows > commit.unmeasured:
            groups.setdefault(commit.split, []).append(commit)
    return {split: _spread(group) for split, group in sorted(groups.items())}


def load_table(
    store: ObjectStore,
    folder: str,
    splits: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    shards: Iterable[str] | None = None,
) -> pa.Table:
    """The latent table, sorted by key: every committed part of the chosen splits (None: all), each verified.

    Args:
        columns: the columns to read; ``key`` is always included. None: all.
        shards: SHA-256 of the shards whose scans to read, such as those of one snapshot. None: all.

    Raises:
        StageOrderError: none of it is fitted yet.
    """
    chosen_shards = None if shards is None else set(shards)
    parts = [
        commit.part
        for _, commit in sorted(read_commits(store, folder).items())
        if commit.part is not None
        and (splits is None or commit.split in splits)
        and (chosen_shards is None or commit.shard in chosen_shards)
    ]
    if not parts:
        raise StageOrderError("there are no latents yet", where=store.uri(folder), do="run the fit stage first")
    names = None if columns is None else list(dict.fromkeys(["key", *columns]))
    return table_format.sort_by_key(table_format.read_parts(store, folder, parts, names))


def storage_of(store: ObjectStore, folder: str, commits: Mapping[str, Commit]) -> Storage | None:
    """How the table stores latents, as its first part tells; None where nothing is fitted."""
    parts = [commit.part for _, commit in sorted(commits.items()) if commit.part is not None]
    return table_format.storage_of(table_format.read_part(store, folder, parts[0], ["latent"])) if parts else None


def verify(store: ObjectStore, folder: str, works: Sequence[FitWork]) -> Counts:
    """Read every part back: bytes, rows, unique keys, and counts; IntegrityError if any is wrong."""
    commits = read_commits(store, folder)
    counts = reconcile(works, commits)
    mine = [commits[work.name] for work in cover(works, commits)[0]]
    tables = table_format.read_parts(store, folder, [c.part for c in mine if c.part is not None], ["key"])
    for commit, rows in zip([c for c in mine if c.part is not None], tables, strict=True):
        if rows.num_rows != commit.rows:
            raise IntegrityError(
                f"a part holds {rows.num_rows} rows, but its commit record says {commit.rows}",
                where=store.uri(folder),
                do="delete this latent table's folder and run fit again",
            )
    if tables:
        table_format.sort_by_key(tables)
    return counts


def _check(work: FitWork, commit: Commit | None) -> None:
    if commit is None:
        found = "has no commit record"
    elif (commit.shard, commit.start, commit.stop) != (work.shard.sha256, work.start, work.stop):
        found = "has the commit record of another range"
    elif commit.rows + commit.lost_units != work.units:
        found = f"has {commit.rows} fitted and {commit.lost_units} quarantined ones"
    else:
        return
    raise IntegrityError(
        f"range {work.name} of {work.units} packed scans, or patches of them, {found}",
        where=f"split {work.split}",
        do="run fit again; if it happens again, delete the range's commit record first",
    )


def _spread(commits: Sequence[Commit]) -> Spread:
    scans = sum(commit.rows - commit.unmeasured for commit in commits)
    mean = math.fsum(commit.psnr_sum for commit in commits) / scans
    square = math.fsum(commit.psnr_squares for commit in commits) / scans
    return Spread(mean, math.sqrt(max(square - mean**2, 0.0)), scans)
