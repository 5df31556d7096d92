"""The files to pack on disk, with their keys, groups and labels, in the order of their relative paths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from medfuncta_dist.packing.sources.file_list import place_list, place_of
from medfuncta_dist.packing.sources.pack_source import Mask, PackSource, Told
from medfuncta_dist.packing.work_tables import Tables, in_batches, key_bytes, key_text, path_bytes, path_text
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.storage.sources import Source

COLUMNS = "relative, key, uri, path, split, size, version, patient, way, more"
_MARKS = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?"


class SourceRows:
    """Sources that are files. Of two with one relative path, the last counts."""

    def __init__(self, tables: Tables) -> None:
        self._db = tables
        tables.execute(
            """CREATE TABLE file (relative BLOB PRIMARY KEY, key BLOB, uri BLOB, path BLOB, split TEXT, size INTEGER,
            version TEXT, patient BLOB, way TEXT, more TEXT) WITHOUT ROWID"""
        )

    def add(self, sources: Iterable[PackSource]) -> None:
        """Add sources; one that is there already, by its relative path, is replaced."""
        self._db.executemany(f"INSERT OR REPLACE INTO file VALUES ({_MARKS})", map(_row_of, sources))

    def replace(self, changed: Iterable[PackSource]) -> None:
        """The same, for sources that are made from those that are iterated over."""
        for batch in in_batches(changed):
            self.add(batch)

    def remove(self, relatives: Iterable[str]) -> None:
        """Remove sources."""
        self._db.executemany("DELETE FROM file WHERE relative = ?", ((path_bytes(r),) for r in relatives))

    def without(self, keys: Iterable[str]) -> None:
        """Remove the sources with these keys."""
        for batch in in_batches(keys):
            marks = ", ".join("?" * len(batch))
            self._db.execute(f"DELETE FROM file WHERE key IN ({marks})", [*map(key_bytes, batch)])

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM file").fetchone()[0])

    def __iter__(self) -> Iterator[PackSource]:
        """All of them, in order; those before the present one may be replaced or removed."""
        last, more = b"", True
        while more:
            # An empty path does not exist.
            found = self._db.execute(
                f"SELECT {COLUMNS} FROM file WHERE relative > ? ORDER BY relative LIMIT 1024", (last,)
            ).fetchall()
            yield from map(source_of, found)
            more = bool(found)
            last = found[-1][0] if found else last

    def with_more(self) -> Iterator[PackSource]:
        """Those of which there is more to tell than of most: what lies inside archive files is among them."""
        found = self._db.execute(f"SELECT {COLUMNS} FROM file WHERE more IS NOT NULL ORDER BY relative")
        return map(source_of, found)

    def places(self) -> Iterator[tuple[str, str]]:
        """Relative path and URI of each."""
        found = self._db.execute("SELECT relative, uri FROM file ORDER BY relative")
        return ((path_text(relative), path_text(uri)) for relative, uri in found)

    def of_relative(self, relative: str) -> PackSource | None:
        """The source of a path."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM file WHERE relative = ?", (path_bytes(relative),)).fetchone()
        return source_of(row) if row else None

    def repeated_uris(self) -> int:
        """How many sources have the file of another."""
        return int(self._db.execute("SELECT count(*) - count(DISTINCT uri) FROM file").fetchone()[0])


def _row_of(source: PackSource) -> tuple[object, ...]:
    group = source.group
    more = _more(source)
    return (
        path_bytes(source.relative),
        key_bytes(source.key),
        path_bytes(source.uri),
        None if source.path == source.relative else path_bytes(source.path),
        source.split,
        source.size,
        source.version,
        None if group is None else key_bytes(group.key),
        None if group is None else group.by,
        json.dumps(more) if more else None,
    )


def source_of(row: Sequence[Any]) -> PackSource:
    """From a row with ``COLUMNS``."""
    relative, key, uri, path, split, size, version, patient, way, text = row
    name = path_text(relative)
    return PackSource(
        key_text(key),
        path_text(uri),
        name,
        split,
        name if path is None else path_text(path),
        None if way is None else Group(key_text(patient), way),
        size=size,
        version=version,
        **(_from_more(json.loads(text)) if text else {}),
    )


def told_list(told: Told) -> list[Any]:
    """What the table says, in JSON."""
    return [told.split, told.group, told.labels]


def told_of(values: Sequence[Any]) -> Told:
    """From ``told_list``."""
    split, group, labels = values
    return Told(split, Group(*group) if group else None, None if labels is None else tuple(labels))


def mask_dict(mask: Mask) -> dict[str, Any]:
    """A mask in JSON."""
    return {field.name: getattr(mask, field.name) for field in fields(Mask)} | {
        "place": place_list(mask.place) if mask.place else None
    }


def mask_of(values: dict[str, Any]) -> Mask:
    """From ``mask_dict``."""
    return Mask(**values | {"place": place_of(values["place"]) if values["place"] else None})


def _more(source: PackSource) -> dict[str, Any]:
    """What few sources have."""
    found: dict[str, Any] = {
        "labels": source.labels,
        "told": {key: told_list(told) for key, told in source.told.items()} or None,
        "unlisted": source.unlisted or None,
        "mask": mask_dict(source.mask) if source.mask else None,
        "beside": None if source.beside == () else {"files": source.beside and [_file(f) for f in source.beside]},
        "place": place_list(source.place) if source.place else None,
        "refused": source.refused or None,
        "inside": [[suffix, place_list(place)] for suffix, place in source.inside] or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _file(source: Source) -> list[Any]:
    return [source.uri, source.relative, source.size, source.version]


def _from_more(more: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: more[name] for name in ("unlisted", "refused") if name in more}
    if "labels" in more:
        found["labels"] = tuple(more["labels"])
    if "told" in more:
        found["told"] = {key: told_of(values) for key, values in more["told"].items()}
    if "mask" in more:
        found["mask"] = mask_of(more["mask"])
    if "beside" in more:
        files = more["beside"]["files"]
        found["beside"] = files and tuple(Source(*file) for file in files)
    if "place" in more:
        found["place"] = place_of(more["place"])
    if "inside" in more:
        found["inside"] = tuple((suffix, place_of(place)) for suffix, place in more["inside"])
    return found
