"""What stays of a pack record when some of its sources are superseded: their samples, copied into new shards.

The archive is not read, so a source may have left it. The shards are those that packing these sources alone would give.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.packing.pack_ledger import instance_counts, require_balance, total
from medfuncta_dist.packing.pack_plan import Rest
from medfuncta_dist.packing.pack_record import PackRecord, read_pack, record_path, without_sources, write_pack
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.scan_key import volume_item
from medfuncta_dist.shards.shard_set import ShardSet, of_indexes
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.digest import crc32c
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.storage.request_failures import explain
from medfuncta_dist.storage.scratch import scratch_folder

Part = tuple[str, str]
"""Of a DICOM series: its key, and the item of one of its images or volumes"""
Sample = tuple[Mapping[str, Any], bytes, bytes]
"""Row of the index, npy, json"""


@dataclass(frozen=True)
class RestTask:
    """Everything that a worker needs."""

    root: str
    dataset: str
    data: Data = field(repr=False)
    rest: Rest
    fence: Guard

    @property
    def name(self) -> str:
        """The name of the task's commit record."""
        return self.rest.name


def rest_task(task: RestTask) -> PackRecord:
    """Write the shards and the record of what stays; the record, without its sources.

    IntegrityError where a shard is damaged: nothing is committed then.
    """
    store = ObjectStore(task.root)
    record = read_pack(store, task.dataset, task.name, task.fence) or _committed(store, task)
    return without_sources(record)


def _committed(store: ObjectStore, task: RestTask) -> PackRecord:
    try:
        parts = _Parts()
        splits = _copied(store, task, parts)
    except OSError as error:
        raise explain(error, "the folder for temporary files of a pack task") from None
    record = _record(task.rest, splits, parts)
    require_balance(record.counts, where=store.uri(record_path(task.dataset, record.name)))
    write_pack(store, task.dataset, record, task.fence)
    return record


@dataclass
class _Parts:
    """What was packed of series: parts of which samples are left out, and parts of which samples stay."""

    gone: set[Part] = field(default_factory=set)
    stay: set[Part] = field(default_factory=set)

    @property
    def whole(self) -> set[Part]:
        """Those of which nothing stays."""
        return self.gone - self.stay


def _part_of(row: Mapping[str, Any]) -> Part:
    """Of a row of an index or a quarantine entry. Slices and slabs are parts of their volume."""
    return row["source"], volume_item(row["item"])


def _copied(store: ObjectStore, task: RestTask, parts: _Parts) -> dict[str, tuple[Shard, ...]]:
    rest = task.rest
    limits = task.data.shard_scans, task.data.shard_megabytes
    with (
        scratch_folder("pack") as folder,
        ShardSet(store, task.dataset, Path(folder), *limits, *of_indexes(task.data)) as shards,
    ):
        for split in sorted(rest.record.splits):
            for shard in rest.record.splits[split]:
                for row, npy, json in _samples(store, shard, rest, Path(folder), parts):
                    group = Group(row["group"], row["group_by"]) if "group" in row else None
                    shards.add(split, row["key"], npy, json, row["source"], row["item"], group)
        return shards.finish()


def _samples(store: ObjectStore, shard: Shard, rest: Rest, folder: Path, parts: _Parts) -> Iterator[Sample]:
    """The shard's samples that stay, in order; each is compared with its checksum."""
    stay = set(rest.sources)
    of_stay = [row for row in read_index(store, shard).to_pylist() if row["source"] in stay]
    rows = [row for row in of_stay if row["key"] not in rest.without]
    parts.stay |= {_part_of(row) for row in rows if row["source"] in rest.record.instances}
    parts.gone |= {_part_of(row) for row in of_stay if row["key"] in rest.without}
    if not rows:
        return
    local = folder / "earlier.shard"
    store.download(shard.uri, local, size=shard.size)
    with local.open("rb") as file:
        for row in rows:
            members = []
            for member in ("npy", "json"):
                file.seek(row[f"{member}_offset"])
                members.append(file.read(row[f"{member}_length"]))
                if crc32c(members[-1]) != row[f"{member}_crc32c"]:
                    do = "run `verify --repair`, then the pack stage again"
                    raise IntegrityError("a sample does not match its index", where=store.uri(shard.uri), do=do)
            yield row, members[0], members[1]


def _instances(rest: Rest, packed: Collection[Part]) -> dict[str, list[int]]:
    """The files of the series that stay, without those of forgotten images and volumes (``packed``, or quarantined)."""
    record, stay = rest.record, set(rest.sources)
    counted = {key: list(counts) for key, counts in record.instances.items() if key in stay}
    quarantined = {_part_of(entry) for entry in record.quarantined if entry["key"] in rest.without}
    for column, parts in enumerate((set(packed), quarantined)):
        for source, item in parts:
            if source in counted:
                several = item.startswith(("volume/", "left/"))  # others are a file each
                counted[source][column] -= record.volumes.get(source, {}).get(item, 0) if several else 1
    return counted


def _record(rest: Rest, splits: Mapping[str, tuple[Shard, ...]], parts: _Parts) -> PackRecord:
    record, stay = rest.record, set(rest.sources)
    quarantined = tuple(
        entry for entry in record.quarantined if entry["source"] in stay and entry["key"] not in rest.without
    )
    lost = sum(entry["kind"] == "source" for entry in quarantined)
    packed = sum(shard.samples for shards in splits.values() for shard in shards)
    instances = _instances(rest, parts.whole)
    gone = {*parts.whole, *(_part_of(entry) for entry in record.quarantined if entry["key"] in rest.without)}
    volumes = {
        key: {item: files for item, files in items.items() if (key, item) not in gone}
        for key, items in record.volumes.items()
        if key in stay
    }
    counts = (
        total([])
        | instance_counts(instances.values())
        | {
            "sources": len(stay),
            "sources_quarantined": lost,
            "sources_packed": len(stay) - lost,
            "packed": packed,
            "quarantined": len(quarantined) - lost,
            "scans": packed + len(quarantined) - lost,
            # A record of an earlier version does not say whose blank slices they were: they go on being counted.
            "blank": record.counts["blank"] - sum(n for key, n in record.blanks.items() if key not in stay),
        }
    )
    return PackRecord(
        rest.name,
        tuple(sorted(stay)),
        splits,
        quarantined,
        counts,
        {key: state for key, state in record.states.items() if key in stay},
        {key: n for key, n in record.blanks.items() if key in stay},
        instances,
        {key: told for key, told in record.told.items() if key in stay},
        rest.revision,
        (*record.replaces, record.name),
        volumes,
        record.burned_in,
        {key: scans for key, scans in record.released.items() if key in stay},
    )
