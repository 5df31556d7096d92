"""One pack task: a group of sources in, shards and one commit record out. Self-contained, picklable, idempotent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.packing.pack_ledger import instance_counts, require_balance, total
from medfuncta_dist.packing.pack_record import (
    PackRecord,
    group_name,
    read_pack,
    record_path,
    without_sources,
    write_pack,
)
from medfuncta_dist.packing.source_reader import (
    BlankSlices,
    EncodedScan,
    Event,
    SeriesFiles,
    SourceReader,
    UnusableScan,
    UnusableSource,
    WholeContent,
)
from medfuncta_dist.packing.sources.pack_source import PackSource, told_key
from medfuncta_dist.packing.sources.source_files import windows_on
from medfuncta_dist.scans.private.forgotten_list import Forgotten
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.shard_set import ShardSet, of_indexes
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.storage.request_failures import explain
from medfuncta_dist.storage.scratch import scratch_folder


@dataclass(frozen=True)
class PackTask:
    """Everything that a worker needs. ``keys`` holds the salt, and is not printed."""

    root: str
    dataset: str
    data: Data = field(repr=False)
    sources: tuple[PackSource, ...]
    keys: KeyMaker = field(repr=False)
    fence: Guard
    revision: str = ""
    """As in ``PackRecord``."""
    forgotten: Forgotten = field(default=Forgotten(), repr=False)
    """What is left out."""

    @cached_property
    def name(self) -> str:
        """The group's digest, and so the name of the task's commit record."""
        return group_name((source.key for source in self.sources), self.revision)


def pack_task(task: PackTask) -> PackRecord:
    """Read the group's sources, write their scans as shards, and commit; does nothing if that is done already.

    Returns the commit record without its list of sources (the driver keeps one record per task in memory). A task that
    is killed can run again: shards have content addresses, and count only when the record names them.
    """
    store = ObjectStore(task.root)
    try:
        record = read_pack(store, task.dataset, task.name, task.fence) or _packed(store, task)
    except OSError as error:  # of this machine's disk: a source's own error is an event
        raise explain(error, "the folder for temporary files of a pack task") from None
    return without_sources(record)


def quarantine_sources(task: PackTask, reason: str) -> PackRecord:
    """Commit all sources of a task as quarantined."""
    store, n = ObjectStore(task.root), len(task.sources)
    instances = {source.key: (0, source.files, 0) for source in task.sources if source.members}
    counts = total([]) | instance_counts(instances.values()) | {"sources": n, "sources_quarantined": n}
    entries = tuple(_entry("source", source.key, source.key, "", reason) for source in task.sources)
    states = {source.key: source.state for source in task.sources if source.state is not None}
    record = read_pack(store, task.dataset, task.name, task.fence)
    record = record or _committed(store, task, PackRecord(task.name, (), {}, entries, counts, states, {}, instances))
    return without_sources(record)


def _packed(store: ObjectStore, task: PackTask) -> PackRecord:
    tally = _Tally()
    limits = task.data.shard_scans, task.data.shard_megabytes
    with (
        scratch_folder("pack") as folder,
        ShardSet(store, task.dataset, Path(folder), *limits, *of_indexes(task.data)) as shards,
        windows_on(task.sources) as windows,
    ):
        reader = SourceReader(task.data, task.keys, windows, task.forgotten)
        for source in task.sources:
            for event in reader.events(source):
                tally.note(source, event)
                if isinstance(event, EncodedScan):
                    shards.add(event.split, event.key, event.npy, event.json, source.key, event.item, event.group)
        splits = shards.finish()
    # Scans are counted as they are read, and again from the shards: the two counts must agree.
    counts = tally.counts(len(task.sources), splits)
    states, blanks, instances = tally.states, tally.blanks, tally.instances
    record = PackRecord(task.name, (), splits, tuple(tally.quarantined), counts, states, blanks, instances)
    record = replace(record, volumes=tally.volumes, released=dict(tally.released))
    return _committed(store, task, record)


def _committed(store: ObjectStore, task: PackTask, record: PackRecord) -> PackRecord:
    require_balance(record.counts, where=store.uri(record_path(task.dataset, task.name)))
    keys = tuple(sorted(source.key for source in task.sources))
    told = {source.key: key for source in task.sources if (key := told_key(source, task.keys))}
    record = replace(record, sources=keys, told=told, revision=task.revision, burned_in=task.data.burned_in)
    if earlier := read_pack(store, task.dataset, task.name, task.fence):
        return earlier  # a copy of this task was faster: its record stays
    write_pack(store, task.dataset, record, task.fence)
    return record


class _Tally:
    """Counts events, and collects the quarantine entries."""

    def __init__(self) -> None:
        self.quarantined: list[dict[str, str]] = []
        self.states: dict[str, SourceState] = {}
        self.blanks: dict[str, int] = {}
        self.instances: dict[str, tuple[int, int, int]] = {}
        self.volumes: dict[str, Mapping[str, int]] = {}
        self.released: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def note(self, source: PackSource, event: Event) -> None:
        match event:
            case EncodedScan():
                self._counted["scans"] += 1
                if event.released:
                    self.released[source.key] += 1
            case UnusableScan(key, item, reason):
                self._counted.update(("scans", "quarantined"))
                self.quarantined.append(_entry("scan", key, source.key, item, reason))
            case UnusableSource(reason):
                self._counted["sources_quarantined"] += 1
                self.quarantined.append(_entry("source", source.key, source.key, "", reason))
            case BlankSlices(slices):
                self._counted["blank"] += slices
                if slices:
                    self.blanks[source.key] = self.blanks.get(source.key, 0) + slices
            case SeriesFiles(packed, quarantined, left_out, volumes):
                self.instances[source.key] = (packed, quarantined, left_out)
                if volumes:
                    self.volumes[source.key] = volumes
            case WholeContent(state):
                self.states[source.key] = state

    def counts(self, sources: int, splits: Mapping[str, tuple[Shard, ...]]) -> dict[str, int]:
        packed = sum(shard.samples for shards in splits.values() for shard in shards)
        whole = sources - self._counted["sources_quarantined"]
        instances = instance_counts(self.instances.values())
        return (
            total([])
            | instances
            | dict(self._counted)
            | {"sources": sources, "sources_packed": whole, "packed": packed}
        )


def _entry(kind: str, key: str, source: str, item: str, reason: str) -> dict[str, str]:
    return {"kind": kind, "key": key, "source": source, "item": item, "reason": reason}
