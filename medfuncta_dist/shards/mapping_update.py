"""Keeping the owner's private mapping (key → URI and item of the scan) complete, from the records in storage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from medfuncta_dist.scans.private_folder import MappingRow, read_mapping, write_mapping
from medfuncta_dist.shards.pack_record import PackRecord
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.object_store import ObjectStore


def update_mapping(
    folder: Path,
    store: ObjectStore,
    records: Sequence[PackRecord],
    new: Sequence[PackRecord],
    uris: Mapping[str, str],
    moved: Collection[str] = (),
) -> None:
    """Add the rows of ``new`` records to the mapping, or of all ``records`` where rows of earlier ones are missing.

    ``records`` are all that count, including ``new``; ``uris`` maps the keys of the archive's present sources, and
    items of a DICOM series that are a file each. Rows
    of sources that were removed from the archive stay; those of ``moved`` sources (keys) get their new URI.
    """
    known = len(read_mapping(folder))
    complete = known >= sum(map(_keys, records)) - sum(map(_keys, new))
    names = {record.name for record in new}
    missing = [r for r in records if not complete or r.name in names or not set(r.sources).isdisjoint(moved)]
    if missing or not complete:
        write_mapping(folder, _rows(store, missing, uris))


def _keys(record: PackRecord) -> int:
    return record.counts["packed"] + len(record.quarantined)


def _rows(store: ObjectStore, records: Iterable[PackRecord], uris: Mapping[str, str]) -> Iterator[MappingRow]:
    for record in records:
        for key, source, item in _identities(store, record):
            if source in uris:
                yield MappingRow(key, uris.get(item, uris[source]), item)


def _identities(store: ObjectStore, record: PackRecord) -> Iterator[tuple[str, str, str]]:
    for entry in record.quarantined:
        yield entry["key"], entry["source"], entry["item"]
    for shard in record.shards:
        index = read_index(store, shard)
        yield from zip(*(index[name].to_pylist() for name in ("key", "source", "item")), strict=True)
