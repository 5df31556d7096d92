"""Keeping the owner's private mapping (key → URI and item of the scan) complete, from the records in storage."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.scans.private.private_mapping import MappingRow, open_mapping
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
    """Add the rows of the records that the mapping does not have yet; it notes which it has.

    ``records`` are all that count, including ``new``; ``uris`` maps the keys of the archive's present sources, and
    ``"<key> <item>"`` where an item of a DICOM series is a file of its own. Rows of sources that were removed from the
    archive stay; those of ``moved`` sources (keys) get their new URI, and those of sources that were not there before
    are added when they come back.
    """
    again, moved = {record.name for record in new}, set(moved)
    with open_mapping(folder) as mapping:
        known = mapping.packs()
        again |= mapping.packs_with(uris)
        for record in records:
            if record.name not in known or record.name in again or not moved.isdisjoint(record.sources):
                absent: set[str] = set()
                mapping.add(_rows(store, record, uris, absent))
                mapping.note_pack(record.name, sorted(absent))


def _rows(store: ObjectStore, record: PackRecord, uris: Mapping[str, str], absent: set[str]) -> Iterator[MappingRow]:
    """The rows of a record; sources whose file is unknown go into ``absent``."""
    for key, source, item in _identities(store, record):
        if source in uris:
            yield MappingRow(key, uris.get(f"{source} {item}", uris[source]), item)
        else:
            absent.add(source)


def _identities(store: ObjectStore, record: PackRecord) -> Iterator[tuple[str, str, str]]:
    for entry in record.quarantined:
        yield entry["key"], entry["source"], entry["item"]
    for shard in record.shards:
        index = read_index(store, shard)
        yield from zip(*(index[name].to_pylist() for name in ("key", "source", "item")), strict=True)
