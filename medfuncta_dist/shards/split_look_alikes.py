"""Scans of a data set that look alike although they are in different splits, or of different patients.

They are reported, and nothing is removed: whether two are one is for the owner to see. Which ones is in the private
folder, for the newest snapshot:

    look-alikes.csv   rows ``format_version,1``, ``snapshot,<digest>`` and a row per count, then a row
                      ``key,split,key,split,likeness`` and a row per pair, those in different splits first
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from medfuncta_dist.scans.look import NUMBERS
from medfuncta_dist.scans.scan_key import volume_item
from medfuncta_dist.shards.look_alikes import LookAlikes, OnStep, Owners, look_alikes
from medfuncta_dist.shards.shard_looks import read_looks
from medfuncta_dist.shards.snapshot import Shard, Snapshot, read_index
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.ordered_reads import read_in_order
from medfuncta_dist.storage.scratch import scratch_folder

FILE, FORMAT_VERSION = "look-alikes.csv", "1"
PAIR = ("key", "split", "key", "split", "likeness")
READS = 8
MOST_SCANS = 2**24
"""A data set of more is not searched: of each scan, about 100 bytes are in memory."""
ROWS = 2**14
"""Pairs that are made text at once."""
KEY_DIGITS = 16
"""Hex digits of a key, 64 bits, that tell patients and volumes from one another."""


@dataclass(frozen=True)
class SplitLookAlikes:
    """``compared`` and ``uncompared`` are scans: an earlier version packed the latter, or they are too many.
    ``skipped`` are those of ``compared`` that look like very many others. The rest as in ``LookAlikes``."""

    compared: int
    uncompared: int
    across_splits: int
    across_patients: int
    complete: int
    """1, or 0 where the counts are the least that there are."""
    skipped: int


def split_look_alikes(
    store: ObjectStore, snapshot: Snapshot, folder: Path, on_step: OnStep = lambda done, total: None
) -> SplitLookAlikes:
    """Search a snapshot, and keep the pairs in the private folder; read from there where they are its already.
    ``on_step`` as in ``look_alikes``."""
    if (known := _kept(folder, snapshot.digest)) is not None:
        return known
    shards = [(split, shard) for split in sorted(snapshot.splits) for shard in snapshot.splits[split]]
    if snapshot.samples > MOST_SCANS:
        nothing = LookAlikes(np.empty((0, 2), np.int64), np.empty(0), 0, 0)
        return _keep(store, snapshot, folder, [], nothing, snapshot.samples)
    with scratch_folder("looks") as scratch:
        spool = Path(scratch) / "looks"
        compared, owners = _spooled(store, snapshot, shards, spool)
        count = len(owners.split)
        looks = np.memmap(spool, np.int8, "r", shape=(count, NUMBERS)) if count else np.empty((0, NUMBERS), np.int8)
        found = look_alikes(looks, owners, on_step=on_step)
        return _keep(store, snapshot, folder, compared, found, snapshot.samples - count)


class _ShardOwners(NamedTuple):
    patient: np.ndarray
    volume: np.ndarray


def _spooled(
    store: ObjectStore, snapshot: Snapshot, shards: Sequence[tuple[str, Shard]], spool: Path
) -> tuple[list[tuple[str, Shard]], Owners]:
    """Write all looks to a file; the shards that have any, and whose their scans are, in the same order."""
    sliced = any(snapshot.contract.get(name) is not None for name in ("slices", "slabs"))
    compared, parts = [], []
    with spool.open("wb") as file:
        found = read_in_order(lambda item: _read(store, snapshot.name, item[1]), shards, READS)
        for number, (item, read) in enumerate(zip(shards, found, strict=True)):
            if read is not None:
                look, index = read
                file.write(look.tobytes())
                parts.append((np.full(len(look), number, np.int32), *_owners(index, sliced)))
                compared.append(item)
    if not parts:
        return [], Owners(np.empty(0, np.int16), np.empty(0, np.uint64), np.empty(0, np.uint64))
    place, patient, volume = (np.concatenate(column) for column in zip(*parts, strict=True))
    names = sorted(snapshot.splits)
    split_of = np.array([names.index(split) for split, _ in shards], np.int16)
    return compared, Owners(split_of[place], patient, volume)


def _read(store: ObjectStore, dataset: str, shard: Shard) -> tuple[np.ndarray, pa.Table] | None:
    looks = read_looks(store, dataset, shard)
    return None if looks is None else (looks, read_index(store, shard))


def _owners(index: pa.Table, sliced: bool) -> _ShardOwners:
    """Patient and volume of each scan. A scan of nobody is a patient by itself; so is one without slices a volume."""
    if sliced:
        items = zip(index["source"].to_pylist(), index["item"].to_pylist(), strict=True)
        volume = [_volume(source, item) for source, item in items]
    else:
        volume = [int(key[:KEY_DIGITS], 16) for key in index["key"].to_pylist()]
    groups = index["group"].to_pylist() if "group" in index.column_names else [""] * len(volume)
    patient = [int(group[:KEY_DIGITS], 16) if group else alone for group, alone in zip(groups, volume, strict=True)]
    return _ShardOwners(np.array(patient, np.uint64), np.array(volume, np.uint64))


def _volume(source: str, item: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{source} {volume_item(item)}".encode()).digest()[:8], "big")


def _keep(
    store: ObjectStore,
    snapshot: Snapshot,
    folder: Path,
    compared: Sequence[tuple[str, Shard]],
    found: LookAlikes,
    uncompared: int,
) -> SplitLookAlikes:
    told = SplitLookAlikes(
        snapshot.samples - uncompared,
        uncompared,
        found.across_splits,
        found.across_patients,
        int(found.complete),
        found.skipped,
    )
    _write(folder / FILE, snapshot.digest, told, _rows(store, compared, found))
    return told


def _rows(store: ObjectStore, compared: Sequence[tuple[str, Shard]], found: LookAlikes) -> Iterator[tuple[str, ...]]:
    """The rows of the pairs, of which there may be a million: as text a part of them at a time."""
    places = np.unique(found.pairs)
    keys, splits = _names(store, compared, places)
    for start in range(0, len(found.pairs), ROWS):
        part = slice(start, start + ROWS)
        at = np.searchsorted(places, found.pairs[part])
        names = zip(keys[at].tolist(), splits[at].tolist(), found.likeness[part].tolist(), strict=True)
        for (key, other), (split, others), likeness in names:
            yield key.decode(), compared[split][0], other.decode(), compared[others][0], f"{likeness:.4f}"


def _names(
    store: ObjectStore, compared: Sequence[tuple[str, Shard]], places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Key of each of these scans, and the number of its shard. Only the indexes with one of them are read again."""
    ends = np.cumsum([shard.samples for _, shard in compared])
    of_shard = np.searchsorted(ends, places, side="right")
    keys = np.empty(len(places), "S64")
    for number in np.unique(of_shard).tolist():
        shard = compared[number][1]
        mine = of_shard == number
        of_index = np.array(read_index(store, shard)["key"].to_pylist(), "S64")
        keys[mine] = of_index[places[mine] - int(ends[number]) + shard.samples]
    return keys, of_shard


def _write(path: Path, digest: str, told: SplitLookAlikes, rows: Iterable[tuple[str, ...]]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        with part.open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("format_version", FORMAT_VERSION))
            writer.writerow(("snapshot", digest))
            writer.writerows(asdict(told).items())
            writer.writerow(PAIR)
            writer.writerows(rows)


def _kept(folder: Path, digest: str) -> SplitLookAlikes | None:
    """What the folder holds of this snapshot; None where it is another's, damaged or not complete: it is made again."""
    names = ["format_version", "snapshot", *SplitLookAlikes.__dataclass_fields__]
    try:
        with (folder / FILE).open(encoding="ascii", newline="") as file:
            head = dict(row for row, _ in zip(csv.reader(file), names, strict=False))
        if (head["format_version"], head["snapshot"]) != (FORMAT_VERSION, digest):
            return None
        told = SplitLookAlikes(*(int(head[name]) for name in names[2:]))
        return (
            None if told.uncompared and told.compared + told.uncompared <= MOST_SCANS else told
        )  # looks may be there now
    except (OSError, KeyError, ValueError, csv.Error):
        return None
