"""The commit record of one pack task: its sources, the shards made from them, and what was quarantined.

    datasets/<name>/packs/<group digest>[-g<generation>].json

The group digest names the set of sources, so a retry has the same name. The generation is the token of the driver's
lease: no driver can overwrite another's record, and for each group the highest generation counts.
Shards that no pack record names do not exist. Overlapping records come from two drivers that saw different listings
of the archive; ``settle`` decides between them, so that no source counts twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.packing.pack_ledger import COUNTS
from medfuncta_dist.shards.snapshot import Shard, dataset_path
from medfuncta_dist.storage.commit_record import each_record, read_record
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

KIND = "pack"
NAMES = re.compile(r"[0-9a-f]{64}(-g\d{9,})?\.json")
"""Names of its records."""
ENTRY = {"kind", "key", "source", "item", "reason"}
"""The fields of a quarantine entry."""


@dataclass(frozen=True)
class PackRecord:
    """``sources`` are keys. ``quarantined`` entries hold key, reason, kind (source or scan), source (key) and item."""

    name: str
    sources: Sequence[str]
    splits: Mapping[str, Sequence[Shard]]
    quarantined: Sequence[Mapping[str, str]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, SourceState] = field(default_factory=dict)
    """What was known of the bytes of each source when it was read; earlier versions kept nothing."""
    blanks: Mapping[str, int] = field(default_factory=dict)
    """Of ``counts["blank"]``: the slices of each source, where there were any."""
    instances: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Of each source that is a DICOM series: its files that are packed, quarantined and left out by policy."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Of sources of which the run file's table gave labels: ``told_key``. Earlier versions kept nothing."""
    revision: str = ""
    """Part of the name of a record of sources that were packed before; it differs in each snapshot."""
    replaces: Sequence[str] = ()
    """Names of earlier records that no longer count where this one does."""
    volumes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of series that are packed as several volumes: the files of each, by item. Earlier versions kept nothing."""
    burned_in: str = ""
    """``data.burned_in`` as these sources were packed; earlier versions kept nothing."""
    released: Mapping[str, int] = field(default_factory=dict)
    """Of sources with any: the scans that were packed although the file may name or show the patient."""

    @property
    def shards(self) -> list[Shard]:
        """The shards of all splits, in order of split."""
        return [shard for name in sorted(self.splits) for shard in self.splits[name]]


def group_name(source_keys: Iterable[str], revision: str = "") -> str:
    """The name of a group of sources, independent of their order: SHA-256 (hex) over their keys, and a revision."""
    keys = sorted(source_keys)
    return digest_json({"sources": keys, "revision": revision} if revision else keys)


def without_sources(record: PackRecord) -> PackRecord:
    """The record without what it holds of each source: a driver keeps one per task in memory."""
    return replace(record, sources=(), states={}, blanks={}, instances={}, volumes={}, told={}, released={})


def record_path(dataset: str, name: str, fence: Guard | None = None) -> str:
    """Path of a driver's pack record, relative to the storage root."""
    return dataset_path(dataset, "packs", f"{name}{f'-g{fence.token:09d}' if fence and fence.token else ''}.json")


def write_pack(store: ObjectStore, dataset: str, record: PackRecord, fence: Guard) -> None:
    """Commit one task. Its shards and indexes must be in storage already. LeaseLostError if the lease is lost."""
    body = {
        "sources": list(record.sources),
        "splits": {name: [asdict(shard) for shard in shards] for name, shards in record.splits.items()},
        "quarantined": [dict(entry) for entry in record.quarantined],
        "counts": dict(record.counts),
    }
    added: dict[str, Any] = {
        "states": {key: asdict(state) for key, state in record.states.items()},
        "blanks": dict(record.blanks),
        "instances": {key: list(counted) for key, counted in record.instances.items()},
        "volumes": {key: dict(files) for key, files in record.volumes.items()},
        "told": dict(record.told),
        "revision": record.revision,
        "replaces": list(record.replaces),
        "burned_in": record.burned_in,
        "released": dict(record.released),
    }
    body |= {name: value for name, value in added.items() if value}  # a record without them is as in earlier versions
    publish(store, fence, NewRecord(record_path(dataset, record.name, fence), KIND, body, fence.token))


def read_pack(store: ObjectStore, dataset: str, name: str, fence: Guard | None = None) -> PackRecord | None:
    """The verified record of one task, as this driver has written it, or None."""
    path = record_path(dataset, name, fence)
    try:
        return parse_pack(path, read_record(store, path, KIND), store.uri(path))
    except ObjectMissingError:
        return None


def read_packs(store: ObjectStore, dataset: str) -> list[PackRecord]:
    """All pack records of a data set, verified, one per group of sources, sorted by name."""
    newest: dict[str, StoredPack] = {}
    for found in each_pack(store, dataset):
        newest[found.record.name] = max(newest.get(found.record.name, found), found, key=StoredPack.age)
    return [newest[name].record for name in sorted(newest)]


class StoredPack(NamedTuple):
    """A pack record and where it is stored."""

    record: PackRecord
    path: str
    generation: int

    def age(self) -> tuple[int, str]:
        """Of the records of one group, the one with the highest counts."""
        return self.generation, self.path


def each_pack(store: ObjectStore, dataset: str) -> Iterator[StoredPack]:
    """All stored pack records, verified, a few of them in memory at once."""
    for path, record in each_record(store, dataset_path(dataset, "packs"), KIND, NAMES):
        yield StoredPack(parse_pack(path, record.body, store.uri(path)), path, record.generation)


def whole_pack(store: ObjectStore, path: str) -> PackRecord:
    """The verified record at a path."""
    return parse_pack(path, read_record(store, path, KIND), store.uri(path))


def settle(records: Iterable[PackRecord], first: Sequence[str] = ()) -> list[PackRecord]:
    """The records that count: none of them shares a source with one before it.

    Those named in ``first`` (a snapshot's packs) come first, in that order, then the others by name. So a late record
    never displaces one that a snapshot already holds. Of the others, none counts that a snapshot's record has
    replaced, and none with a revision: it belongs to a snapshot that was not made.
    """
    taken: set[str] = set()
    settled = []
    for record in may_count(records, first):
        if taken.isdisjoint(record.sources):
            taken.update(record.sources)
            settled.append(record)
    return settled


def may_count(records: Iterable[PackRecord], first: Sequence[str] = ()) -> list[PackRecord]:
    """Those of which ``settle`` chooses, in its order, whatever their sources are."""
    rank = {name: i for i, name in enumerate(first)}
    listed = list(records)
    replaced = {name for record in listed if record.name in rank for name in record.replaces}
    counting = [r for r in listed if r.name in rank or not (r.revision or r.name in replaced)]
    return sorted(counting, key=lambda r: (rank.get(r.name, len(rank)), r.name))


def parse_pack(path: str, body: Mapping[str, Any], where: str) -> PackRecord:
    """The pack that a record's body describes; IntegrityError unless it belongs at ``path``."""
    name = path.rpartition("/")[2].removesuffix(".json").partition("-")[0]
    record = typed(PackRecord, {**body, "name": name}, "a pack record", where)
    if group_name(record.sources, record.revision) != name:
        raise IntegrityError("a pack record is stored under another record's name", where=where, do=RESTORE)
    # The driver adds up the counts, and reads the entries' fields.
    if not record.counts.keys() >= set(COUNTS) or any(entry.keys() != ENTRY for entry in record.quarantined):
        raise IntegrityError("a pack record lacks a count, or a field of a quarantine entry", where=where, do=RESTORE)
    splits = {split: tuple(shards) for split, shards in record.splits.items()}
    return replace(record, sources=tuple(record.sources), splits=splits, quarantined=tuple(record.quarantined))
