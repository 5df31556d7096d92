"""Reads a catalogue: one row group to find a key, whole files to list scans. What is read is proved by the record."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medfuncta_dist.errors import FormatVersionError, IntegrityError, LostObjectError, ObjectMissingError
from medfuncta_dist.latent_table.catalogue.catalogue_files import span
from medfuncta_dist.latent_table.catalogue.catalogue_format import (
    KIND,
    LARGEST_ROW,
    PATCHED_SCHEMA,
    SCHEMA,
    CatalogueFile,
    CatalogueRecord,
)
from medfuncta_dist.storage.archive_files.range_file import RangeFile
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet

READERS = 8
KEPT_GROUPS = 32
"""Row groups that stay in memory, 0.8 MB each: look-ups often come in groups of neighbours."""
OPEN_AGAIN = (
    "open the latent table again: it may have changed meanwhile; if not, run `medfuncta-dist verify RUN.yaml --repair`"
)


class Entry(NamedTuple):
    """A scan's row in the catalogue."""

    key: str
    split: str
    labels: tuple[int, ...]
    psnr: float
    """dB, of the latent as stored."""
    below_min: bool
    part: int
    """Its part, by its place in the record's ``parts``, and its row there; of patches, those of the first one."""
    row: int
    patches: int = 0
    """Of a scan that is a grid of patches: their number, PSNR (dB) and number of the worst one, and where the scan's
    facts are."""
    worst_psnr: float | None = None
    worst_patch: int = -1
    scan_row: int = -1


class _Group(NamedTuple):
    """A row group, by its file and its place in it."""

    file: CatalogueFile
    number: int


class Catalogue:
    """A catalogue that is in storage, or that was made on this machine."""

    def __init__(self, store: ObjectStore, folder: str, record: CatalogueRecord, path: str = "") -> None:
        """``path``: of its commit record; "" for one that is only here."""
        self._store, self._folder, self.record, self.path = store, folder, record, path
        self._groups = [_Group(file, number) for file in record.files for number in range(len(file.firsts))]
        self._firsts = [first for file in record.files for first in file.firsts]
        self._footer = lru_cache(len(record.files))(self._read_footer)
        self._rows = lru_cache(KEPT_GROUPS)(self._read_group)

    @property
    def schema(self) -> pa.Schema:
        """Of its files."""
        return SCHEMA if self.record.grid is None else PATCHED_SCHEMA

    def columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of all rows, sorted by key."""
        with ThreadPoolExecutor(READERS) as pool:
            tables = list(pool.map(lambda file: self._read_file(file, list(names)), self.record.files))
        return pa.concat_tables(tables) if tables else self.schema.empty_table().select(list(names))

    def tables(self) -> Iterator[pa.Table]:
        """All rows, sorted by key: a table per file, one of them in memory at a time."""
        for file in self.record.files:
            yield self._read_file(file, self.schema.names)

    def find(self, beginning: str, most: int = 2) -> list[Entry]:
        """The first ``most`` scans whose keys begin so, by key: one ranged read, of several groups where keys reach
        into the next one."""
        found: list[Entry] = []
        place = max(0, bisect_right(self._firsts, beginning) - 1)
        while place < len(self._groups) and len(found) < most and _may_hold(self._firsts, place, beginning):
            rows = self._rows(self._groups[place])
            matching = rows.filter(pc.starts_with(rows["key"], beginning)).slice(0, most - len(found))
            found += [_entry(row) for row in matching.to_pylist()]
            place += 1
        return found

    def _uri(self, file: CatalogueFile) -> str:
        return self._store.uri(self._path(file))

    def _path(self, file: CatalogueFile) -> str:
        return f"{self._folder}/{file.path}"

    def _read_file(self, file: CatalogueFile, names: list[str]) -> pa.Table:
        where = self._uri(file)
        try:
            data = self._store.read(self._path(file), limit=file.size)
        except ObjectMissingError as error:
            raise LostObjectError("a file of the catalogue is missing", where=where, do=OPEN_AGAIN) from error
        if len(data) != file.size or sha256_bytes(data) != file.sha256:
            raise _damaged(where)
        opened = parquet.open_parquet(data, where, row_bytes=LARGEST_ROW, rows=file.rows)
        _check_schema(opened.schema_arrow, self.schema, where)
        return parquet.read(opened, where, names)

    def _read_footer(self, file: CatalogueFile) -> pq.FileMetaData:
        where = self._uri(file)
        footer = self._ranged(file, file.size - file.footer, file.footer)
        if sha256_bytes(footer) != file.footer_sha256:
            raise _damaged(where)
        metadata = pq.read_metadata(pa.BufferReader(footer))
        _check_schema(metadata.schema.to_arrow_schema(), self.schema, where)
        if not metadata.num_row_groups == len(file.firsts) == len(file.groups) or metadata.num_rows != file.rows:
            raise _damaged(where)
        return metadata

    def _read_group(self, group: _Group) -> pa.Table:
        metadata, where = self._footer(group.file), self._uri(group.file)
        start, stop = span(metadata.row_group(group.number))
        piece = self._ranged(group.file, start, stop - start)
        if sha256_bytes(piece) != group.file.groups[group.number]:
            raise _damaged(where)

        def fetch(begin: int, length: int) -> bytes:
            return piece[begin - start :][:length]

        source = pa.PythonFile(RangeFile(fetch, group.file.size, first=1), mode="r")
        try:
            file = pq.ParquetFile(source, metadata=metadata)
            rows = file.read_row_group(group.number, use_threads=False).combine_chunks()
            rows.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(where) from error
        if rows["key"][0].as_py() != group.file.firsts[group.number]:
            raise _damaged(where)
        return rows

    def _ranged(self, file: CatalogueFile, start: int, length: int) -> bytes:
        try:
            return self._store.read_range(self._path(file), start, length)
        except ObjectMissingError as error:
            what = "a file of the catalogue is missing"
            raise LostObjectError(what, where=self._uri(file), do=OPEN_AGAIN) from error


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**row | {"labels": tuple(row["labels"])})


def _may_hold(firsts: Sequence[str], place: int, beginning: str) -> bool:
    """Whether keys of a group may begin so: its first key may be a smaller one, but not a larger one that does not."""
    return firsts[place] <= beginning or firsts[place].startswith(beginning)


def _check_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    metadata, known = found.metadata or {}, expected.metadata[b"format_version"]
    version, kind = metadata.get(b"format_version"), metadata.get(b"kind")
    if kind == KIND.encode() and version != known:
        raise FormatVersionError(
            f"format_version {version!r} of a catalogue is not one that this version reads ({known.decode()})",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if kind != KIND.encode() or not found.equals(expected):
        raise _damaged(where)


def _damaged(where: str) -> IntegrityError:
    what = "a file of the latent table's catalogue is not the one that was committed"
    return IntegrityError(what, where=where, do="run `medfuncta-dist verify RUN.yaml --repair`: it writes it again")
