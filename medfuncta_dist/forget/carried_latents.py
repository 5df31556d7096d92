"""The latents of scans that stay, carried from parts that must go to the new shards of these scans: nothing is fitted
again whose whole range is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.errors import ObjectMissingError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.latent_table.catalogue.catalogue_store import catalogue_objects
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format import patch_rows
from medfuncta_dist.scans.private.forgotten_list import latent_key
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.commit_record import Record, read_records
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.publish import Guard


@dataclass(frozen=True)
class HeldLatents:
    """Of one latent table: the commit records that hold scans that go, or belong to shards that do."""

    folder: str
    commits: Sequence[tuple[str, Commit]] = field(repr=False)
    """(path, commit)"""
    others: frozenset[str]
    """Parts, below the storage root, that other records name."""
    catalogues: tuple[str, ...] = ()
    """All of the table's catalogues, their commit records first: the next fit writes one of what stays."""

    @property
    def objects(self) -> list[str]:
        """What is to be deleted, parts before their records: what is left of an interrupted deletion is still named."""
        parts = {f"{self.folder}/{part.path}" for _, commit in self.commits for part in commit.parts}
        return [*self.catalogues, *sorted(parts - self.others), *(path for path, _ in self.commits)]


def tables_of(store: ObjectStore, run: str) -> list[str]:
    """The folders of a run's latent tables."""
    found = {
        info.path.rpartition("/commits/")[0] for info in store.list(f"runs/{run}/latents") if "/commits/" in info.path
    }
    return sorted(found)


def held_latents(
    store: ObjectStore, folder: str, scans: Collection[str], gone: Collection[str], stay: Collection[str]
) -> HeldLatents:
    """``gone``, ``stay``: SHA-256 of shards that go, and of those that some record goes on naming."""
    found, others = [], set()
    for path, record in read_records(store, f"{folder}/commits", latent_ledger.KIND, latent_ledger.NAMES):
        commit = typed(Commit, record.body, "a latents record", record.where)
        if commit.shard in gone or (commit.shard not in stay and _names(store, folder, commit, scans)):
            found.append((path, commit))
        else:
            others |= {f"{folder}/{part.path}" for part in commit.parts}
    catalogues = tuple(catalogue_objects(store, folder)) if found else ()
    return HeldLatents(folder, found, frozenset(others), catalogues)


def named_parts(store: ObjectStore, folder: str, deleted: Collection[str]) -> set[str]:
    """Parts, below the storage root, that records name which are not ``deleted``."""
    found = set()
    for path, record in read_records(store, f"{folder}/commits", latent_ledger.KIND, latent_ledger.NAMES):
        commit = typed(Commit, record.body, "a latents record", record.where)
        if path not in deleted:
            found |= {f"{folder}/{part.path}" for part in commit.parts}
    return found


def latent_keys(store: ObjectStore, held: HeldLatents, scans: Collection[str], keys: KeyMaker) -> set[str]:
    """Keys of the latents of these scans, by which they are recognised anywhere. Of grids of patches, also a key of all
    latents of each scan: other scans may have patches of air, too."""
    found = set(scan_latent_keys(store, held, scans, keys).values())
    tables = _parts(store, held, ["key", "latent"])
    if any(pa.types.is_binary(table["latent"].type) for table in tables):
        # Of curved latents not the stream alone: others, as the published ones, are the numbers that it gives.
        tables += _parts(store, held, ["key", "latent"], stored=False)
    for table in tables:
        kept = table.filter(pc.is_in(table["key"], pa.array(sorted(scans), pa.string())))
        found |= {latent_key(keys, row) for row in latent_rows(kept["latent"]) if any(row)}
    return found


def scan_latent_keys(
    store: ObjectStore, held: HeldLatents, scans: Collection[str], keys: KeyMaker
) -> dict[tuple[str, str], str]:
    """By the shard's SHA-256 and the scan's key, of those of these scans that are grids of patches: a key of all of a
    scan's latents, in their order."""
    wanted, found = pa.array(sorted(scans), pa.string()), defaultdict[tuple[str, str], dict[int, bytes]](dict)
    for path, commit in held.commits:
        one = [] if commit.patches is None else [(path, commit)]
        for table in _parts(store, HeldLatents(held.folder, one, frozenset()), ["key", "patch", "latent"]):
            kept = table.filter(pc.is_in(table["key"], wanted))
            numbered = zip(kept["key"].to_pylist(), kept["patch"].to_pylist(), latent_rows(kept["latent"]), strict=True)
            for key, patch, row in numbered:
                found[commit.shard, key][patch] = row
    return {scan: latent_key(keys, b"".join(rows[patch] for patch in sorted(rows))) for scan, rows in found.items()}


def beside(store: ObjectStore, folder: str, parts: Collection[str]) -> HeldLatents:
    """The records of all ranges of the shards to which these parts, below the storage root, belong."""
    records = read_records(store, f"{folder}/commits", latent_ledger.KIND, latent_ledger.NAMES)
    commits = [(path, typed(Commit, record.body, "a latents record", record.where)) for path, record in records]
    shards = {c.shard for _, c in commits if any(f"{folder}/{part.path}" in parts for part in c.parts)}
    return HeldLatents(folder, [one for one in commits if one[1].shard in shards], frozenset())


def latent_rows(column: pa.ChunkedArray) -> Iterator[bytes]:
    """The numbers of each latent, as they are stored, or its stream."""
    if pa.types.is_binary(column.type):
        yield from column.to_pylist()
        return
    for chunk in column.chunks:
        numbers = chunk.flatten().to_numpy(zero_copy_only=False)
        yield from (row.tobytes() for row in numbers.reshape(len(chunk), -1))


def carry(
    store: ObjectStore, held: HeldLatents, new: Iterable[tuple[str, Shard]], scans_per_range: int, fence: Guard
) -> int:
    """Write parts and commit records of the new shards (split, shard) whose scans all have a latent or a quarantine
    entry here; the number of latents carried. Writing them twice changes nothing. Patches are fitted again: in the new
    shards, they are other units."""
    if any(commit.patches is not None for _, commit in held.commits):
        return 0
    tables = _carried_parts(store, held)
    if not tables:
        return 0
    whole = table_format.sort_by_key(tables)
    places = {key: place for place, key in enumerate(whole["key"].to_pylist())}
    lost = {q.key: q for _, commit in held.commits if not commit.failed for q in commit.quarantined}
    done, carried = latent_ledger.read_commits(store, held.folder), 0
    for work, keys in _ranges(store, new, scans_per_range):
        if work.name not in done and any(key in places for key in keys) and all(k in places or k in lost for k in keys):
            rows = whole.take([places[key] for key in keys if key in places]).combine_chunks()
            part = table_format.write_part(store, held.folder, rows)
            commit = _commit(work, rows, part, tuple(lost[key] for key in keys if key not in places))
            latent_ledger.write_commit(store, held.folder, work, commit, fence)
            carried += rows.num_rows
    return carried


def _ranges(
    store: ObjectStore, shards: Iterable[tuple[str, Shard]], size: int
) -> Iterator[tuple[FitWork, Sequence[str]]]:
    for split, shard in shards:
        keys = read_index(store, shard)["key"].to_pylist()
        for start in range(0, shard.samples, size):
            stop = min(start + size, shard.samples)
            yield FitWork(split, shard, start, stop), keys[start:stop]


def _commit(work: FitWork, rows: pa.Table, part: table_format.PartRef, lost: tuple[Quarantined, ...]) -> Commit:
    quality = rows["psnr"].to_numpy().astype(np.float64)
    return Commit(
        split=work.split,
        shard=work.shard.sha256,
        start=work.start,
        stop=work.stop,
        rows=rows.num_rows,
        part=part,
        quarantined=lost,
        below_min=int(rows["below_min"].to_numpy(zero_copy_only=False).sum()),
        psnr_sum=float(quality.sum()),
        psnr_squares=float(np.square(quality).sum()),
    )


def _carried_parts(store: ObjectStore, held: HeldLatents) -> list[pa.Table]:
    """Of the records that count: a range and its pieces hold the same scans. None where parts differ in how they store
    latents (they are fitted again), nor those with unsolved steps, which a record counts by range, not by scan."""
    counting = latent_ledger.settle(_records(store, held))
    names = [
        (path, c) for path, c in held.commits if counting.get(c.name) == c and not c.failed and not c.unsolved_steps
    ]
    tables = _parts(store, HeldLatents(held.folder, names, frozenset()))
    alike = all(t.schema.equals(tables[0].schema, check_metadata=True) for t in tables)
    return _once(tables) if alike else []


def _records(store: ObjectStore, held: HeldLatents) -> Iterator[Record]:
    wanted = {path for path, _ in held.commits}
    for path, record in read_records(store, f"{held.folder}/commits", latent_ledger.KIND, latent_ledger.NAMES):
        if path in wanted:
            yield record


def _once(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """The tables without rows of keys that one before them has: a superseded shard may hold the same scans."""
    seen: set[str] = set()
    kept = []
    for table in tables:
        keys = table["key"].to_pylist()
        kept.append(table.take([i for i, key in enumerate(keys) if key not in seen]))
        seen.update(keys)
    return kept


def _parts(
    store: ObjectStore, held: HeldLatents, columns: Sequence[str] | None = None, stored: bool = True
) -> list[pa.Table]:
    """Parts that an interrupted deletion has left out; ``stored``: curved latents as streams, else as numbers."""
    tables, read = [], table_format.read_stored_part if stored else table_format.read_part
    for _, commit in held.commits:
        if commit.part is not None:
            try:
                kind = read if commit.patches is None else patch_rows.read_part
                tables.append(kind(store, held.folder, commit.part, columns))
            except ObjectMissingError:
                continue
    return tables


def _names(store: ObjectStore, folder: str, commit: Commit, scans: Collection[str]) -> bool:
    if any(q.key in scans for q in commit.quarantined):
        return True
    tables = _parts(store, HeldLatents(folder, [("", commit)], frozenset()), ["key"])
    return any(not set(table["key"].to_pylist()).isdisjoint(scans) for table in tables)
