"""Where a data set holds scans: in which records, shards and snapshots, superseded and left-over ones included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.errors import MedfunctaError, ObjectMissingError, RunFileError
from medfuncta_dist.forget.patient_names import Wanted
from medfuncta_dist.packing.pack_record import KIND, NAMES, PackRecord, parse_pack
from medfuncta_dist.scans.private.forgotten_list import pixels_key
from medfuncta_dist.scans.private.forgotten_volumes import Piece, is_piece, volume_names
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.shards.snapshot import KIND as SNAPSHOT
from medfuncta_dist.shards.snapshot import (
    RECORD_NAMES,
    Shard,
    Snapshot,
    commits_prefix,
    dataset_path,
    load_snapshot,
    newest_snapshot,
    read_index,
)
from medfuncta_dist.storage.commit_record import read_records
from medfuncta_dist.storage.object_store import ObjectStore

READS = 8
Row = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Dataset:
    """All records of a data set, whether they count or not."""

    store: ObjectStore
    name: str
    newest: Snapshot | None
    records: Sequence[tuple[str, PackRecord]] = field(repr=False)
    """(path, record)"""

    @property
    def shards(self) -> dict[str, Shard]:
        """By URI."""
        return {shard.uri: shard for _, record in self.records for shard in record.shards}


@dataclass(frozen=True)
class Holdings:
    """What is to be forgotten, and what holds it. All keys are full ones."""

    scans: frozenset[str] = frozenset()
    """Packed, or quarantined."""
    sources: frozenset[str] = frozenset()
    """Files of which nothing stays."""
    groups: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()
    """Of those files."""
    rows: Sequence[tuple[Shard, Row]] = field(default=(), repr=False)
    """Of the indexes: each packed scan, once per shard that holds it."""
    records: Sequence[tuple[str, PackRecord]] = field(default=(), repr=False)
    """(path, record) of those that hold any of it."""
    pieces: tuple[Piece, ...] = ()
    """Of the scans, those that are volumes of DICOM series, or slices of them."""

    @property
    def names(self) -> set[str]:
        """Of the records."""
        return {record.name for _, record in self.records}


def read_dataset(store: ObjectStore, name: str) -> Dataset:
    """All records of a data set. IntegrityError where one is damaged."""
    found = read_records(store, dataset_path(name, "packs"), KIND, NAMES)
    records = [(path, parse_pack(path, record.body, store.uri(path))) for path, record in found]
    return Dataset(store, name, newest_snapshot(store, name), records)


def find_holdings(dataset: Dataset, wanted: Wanted, also: Collection[str] = ()) -> Holdings:
    """What the data set holds of what is wanted; ``also``: full keys of an act that was begun.

    RunFileError where the beginning of a key is that of no scan, or of several.
    """
    named = {e["source"] for e in _entries(dataset, wanted, also) if e["kind"] == "source"}
    # A file that cannot be read has one key, its own. What was packed of it while it could be read has others.
    wanted = replace(wanted, sources=wanted.sources | named)
    rows = list(_matching(dataset, dataset.shards.values(), wanted, also))
    entries = list(_entries(dataset, wanted, also))
    scans = {row["key"] for _, row in rows} | {entry["key"] for entry in entries}
    _require_one_each(wanted.beginnings, scans)
    sources = {row["source"] for _, row in rows} | {entry["source"] for entry in entries}
    whole = frozenset(_whole(dataset, sources, scans) | (wanted.sources & _all_sources(dataset)))
    uris = {shard.uri for shard, _ in rows}
    held = [(path, record) for path, record in dataset.records if _holds(record, whole, scans, uris)]
    return Holdings(
        frozenset(scans - whole),
        whole,
        wanted.groups & ({row.get("group", "") for _, row in rows} | wanted.named),
        frozenset(r.states[s].content for _, r in held for s in whole if s in r.states and r.states[s].content),
        rows,
        held,
        tuple(_pieces(dataset, rows, entries, whole)),
    )


def held_snapshots(dataset: Dataset, holdings: Holdings) -> list[tuple[str, Snapshot]]:
    """(path of its commit record, snapshot) of the committed ones that hold any of it."""
    gone, keys = holdings.names, holdings.scans | holdings.sources
    found = []
    for path, record in read_records(dataset.store, commits_prefix(dataset.name), SNAPSHOT, RECORD_NAMES):
        with suppress(ObjectMissingError, RunFileError):  # an act that was begun has deleted it
            snapshot = load_snapshot(dataset.store, dataset.name, str(record.body.get("digest")))
            if not gone.isdisjoint(snapshot.packs) or any(e["key"] in keys for e in snapshot.quarantined):
                found.append((path, snapshot))
    return found


def pixel_keys(store: ObjectStore, holdings: Holdings, keys: KeyMaker) -> frozenset[str]:
    """Keys of the packed values, by which they are recognised anywhere. Values that are all equal tell no scan."""

    def key_of(place: tuple[Shard, Row]) -> str | None:
        shard, row = place
        try:
            npy, json = (store.read_range(shard.uri, row[f"{m}_offset"], row[f"{m}_length"]) for m in ("npy", "json"))
            array = decode(row["key"], npy, json).array
        except MedfunctaError:  # it is damaged or gone: there is nothing to recognise
            return None
        return None if np.all(array == array.flat[0]) else pixels_key(keys, npy)

    return frozenset(key for key in in_threads(key_of, holdings.rows) if key)


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Results in order; storage takes longer to answer than we to look."""
    with ThreadPoolExecutor(READS) as pool:
        return list(pool.map(work, items))


def _matching(
    dataset: Dataset, shards: Iterable[Shard], wanted: Wanted, also: Collection[str]
) -> Iterator[tuple[Shard, Row]]:
    keys = pa.array(sorted(also), pa.string())
    groups, sources = (pa.array(sorted(found), pa.string()) for found in (wanted.groups, wanted.sources))

    def rows_of(shard: Shard) -> list[tuple[Shard, Row]]:
        try:
            index = read_index(dataset.store, shard)
        except ObjectMissingError:
            if dataset.newest is None or shard not in _named(dataset.newest):
                return []  # an act that was begun has deleted it
            raise
        found = pc.or_(pc.is_in(index["key"], keys), pc.is_in(index["source"], sources))
        if "group" in index.column_names:
            found = pc.or_(found, pc.is_in(index["group"], groups))
        for beginning in wanted.beginnings:
            found = pc.or_(found, pc.starts_with(index["key"], beginning))
        return [(shard, row) for row in index.filter(found).to_pylist()]

    for rows in in_threads(rows_of, shards):
        yield from rows


def _named(snapshot: Snapshot) -> list[Shard]:
    return [shard for shards in snapshot.splits.values() for shard in shards]


def _entries(dataset: Dataset, wanted: Wanted, also: Collection[str]) -> Iterator[Mapping[str, str]]:
    """Quarantined files and scans."""
    return (e for _, record in dataset.records for e in record.quarantined if _matches_entry(e, wanted, also))


def _matches_entry(entry: Mapping[str, str], wanted: Wanted, also: Collection[str]) -> bool:
    if entry["source"] in wanted.sources or entry["key"] in also:
        return True
    return entry["key"].startswith(wanted.beginnings) if wanted.beginnings else False


def _require_one_each(beginnings: Iterable[str], scans: Collection[str]) -> None:
    for beginning in beginnings:
        found = sum(key.startswith(beginning) for key in scans)
        if found != 1:
            raise RunFileError(
                f"{'no scan has' if not found else f'{found} scans have'} a key that begins with {beginning[:16]}",
                where="KEY",
                do="name a scan by its whole key; `medfuncta-dist lookup` finds the keys of a file",
            )


def _whole(dataset: Dataset, sources: Collection[str], scans: Collection[str]) -> set[str]:
    """Of these sources, those whose every scan in every record is among ``scans``."""
    keys: dict[str, set[str]] = defaultdict(set)
    wanted, shards = Wanted(sources=frozenset(sources)), dict[str, Shard]()
    for _, record in dataset.records:
        if not set(sources).isdisjoint(record.sources):
            shards |= {shard.uri: shard for shard in record.shards}
            for entry in record.quarantined:
                keys[entry["source"]].add(entry["key"])
    for _, row in _matching(dataset, shards.values(), wanted, ()):
        keys[row["source"]].add(row["key"])
    return {source for source in sources if keys[source] <= set(scans)}


def _pieces(
    dataset: Dataset, rows: Iterable[tuple[Shard, Row]], entries: Iterable[Mapping[str, str]], whole: Collection[str]
) -> Iterator[Piece]:
    """The volumes, and slices of volumes, of series of which other scans stay."""
    series = {source for _, record in dataset.records for source in record.instances} - set(whole)
    found: dict[str, set[str]] = defaultdict(set)
    for one in (*(row for _, row in rows), *entries):
        if one["source"] in series and is_piece(one["item"]):
            found[one["source"]].add(one["item"])
    if not found:
        return
    items = _items(dataset, frozenset(found))
    for source, gone in sorted(found.items()):
        records = [record for _, record in dataset.records if source in record.sources]
        contents = {record.states[source].content for record in records if source in record.states} - {""}
        for item in sorted(gone):
            others = volume_names(items[source]) - volume_names([item])
            yield Piece(source, item, tuple(sorted(contents)), tuple(sorted(others)))


def _items(dataset: Dataset, sources: frozenset[str]) -> dict[str, set[str]]:
    """By source: the items of all its scans, in all records."""
    items: dict[str, set[str]] = defaultdict(set)
    shards = {s.uri: s for _, r in dataset.records if not sources.isdisjoint(r.sources) for s in r.shards}
    for _, row in _matching(dataset, shards.values(), Wanted(sources=sources), ()):
        items[row["source"]].add(row["item"])
    for _, record in dataset.records:
        for entry in record.quarantined:
            if entry["source"] in sources:
                items[entry["source"]].add(entry["item"])
    return items


def _all_sources(dataset: Dataset) -> set[str]:
    return {source for _, record in dataset.records for source in record.sources}


def _holds(record: PackRecord, whole: Collection[str], scans: Collection[str], shards: Collection[str]) -> bool:
    if any(source in whole for source in record.sources) or any(e["key"] in scans for e in record.quarantined):
        return True
    return any(shard.uri in shards for shard in record.shards)
